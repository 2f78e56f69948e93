# The image of the operator and of both data planes.
#
# Dependencies and code are two folders, hence two layers: a change of the code rebuilds, ships and loads only the small
# one. Everything is compiled to bytecode here, because the root file system is read-only where it runs.
#
#   BASE         any image with Python 3.11 or newer
#   PIP          how pip is called, for a base without it
#   PIP_OPTIONS  for example --no-index --find-links=/wheels with a folder of wheels
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS dependencies
ARG PIP="python3 -m pip"
ARG PIP_OPTIONS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/runtime.txt /build/
RUN ${PIP} install ${PIP_OPTIONS} --require-hashes --no-deps --no-compile --target=/opt/auditpipeline/dependencies \
      -r /build/runtime.txt \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/auditpipeline/dependencies

FROM dependencies AS code
ARG PIP="python3 -m pip"
ARG PIP_OPTIONS=""
COPY pyproject.toml README.md LICENSE /build/
COPY operator /build/operator
COPY manifests/policies /build/manifests/policies
RUN ${PIP} install ${PIP_OPTIONS} --no-deps --no-compile --target=/opt/auditpipeline/code "/build[operator]" \
 && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/auditpipeline/code

FROM ${BASE}
COPY --from=dependencies /opt/auditpipeline/dependencies /opt/auditpipeline/dependencies
COPY --from=code /opt/auditpipeline/code /opt/auditpipeline/code
ENV PATH=/opt/auditpipeline/code/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/auditpipeline/code:/opt/auditpipeline/dependencies \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["auditpipeline"]
