// Reads one document from standard input as a tool reads its configuration: strictly, into the tool's own types.
// The argument is the apiVersion; the exit code is 1, with the error on standard error, where a field is unknown or has
// another type.
package main

import (
	"fmt"
	"io"
	"os"

	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta3"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := check(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(apiVersion string) error {
	into, known := map[string]any{
		"kubeadm.k8s.io/v1beta3": &v1beta3.ClusterConfiguration{},
		"kubeadm.k8s.io/v1beta4": &v1beta4.ClusterConfiguration{},
		"kind.x-k8s.io/v1alpha4": &v1alpha4.Cluster{},
	}[apiVersion]
	if !known {
		return fmt.Errorf("no types for %s", apiVersion)
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	return yaml.UnmarshalStrict(text, into)
}
