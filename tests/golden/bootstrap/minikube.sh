#!/bin/sh
# Makes the certificates in /home/me/auditpipeline, puts what the node needs where minikube's file sync finds it, and starts minikube
# with kube-apiserver's flags. A cluster that runs: minikube stop, then this script.
#
# kube-apiserver sees of its node /etc/ssl/certs and the cluster's own PKI alone, hence /etc/ssl/certs/auditpipeline
# (minikube's tutorial on audit policies does the same). The gateway's files go where the chart looks for them.
#
# After it:    helm install auditpipeline manifests/chart --namespace auditpipeline-system --create-namespace
# To check:    minikube ssh, and there: ps -ef | grep audit-webhook
# To renew:    run it again after minikube stop.
# To go back:  minikube delete, remove what is listed below from $HOME/.minikube/files, minikube start. minikube keeps
#              extra-config in the profile, so that stopping alone does not take the flags away.
set -eu
made=/home/me/auditpipeline
files="$HOME/.minikube/files"
auditpipeline bootstrap files --dir "$made"
mkdir -p "$files/etc/ssl/certs/auditpipeline" "$files/etc/kubernetes/auditpipeline/gateway"
cp -p "$made/policy.yaml" "$made/webhook.kubeconfig" "$files/etc/ssl/certs/auditpipeline/"
cp -p "$made/gateway/tls.crt" "$made/gateway/tls.key" "$made/gateway/client-ca.crt" "$files/etc/kubernetes/auditpipeline/gateway/"
minikube start \
  --extra-config=apiserver.audit-policy-file=/etc/ssl/certs/auditpipeline/policy.yaml \
  --extra-config=apiserver.audit-webhook-config-file=/etc/ssl/certs/auditpipeline/webhook.kubeconfig \
  --extra-config=apiserver.audit-webhook-mode=batch \
  --extra-config=apiserver.audit-webhook-batch-max-size=400 \
  --extra-config=apiserver.audit-webhook-batch-max-wait=1s \
  --extra-config=apiserver.audit-webhook-initial-backoff=10s \
  --extra-config=apiserver.audit-webhook-truncate-enabled=true \
  --extra-config=apiserver.audit-webhook-truncate-max-batch-size=10485760 \
  --extra-config=apiserver.audit-webhook-truncate-max-event-size=1048576
