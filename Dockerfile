# The command line in a container: docker build -t mlp-xp . && docker run --rm -v "$PWD:/data" -w /data mlp-xp train
# With --build-arg EXTRAS=files,mpi,cuda12 it is the image of an MPIJob (docs/many_machines.md): on an image that has an
# MPI library and a driver's libraries, such as --build-arg BASE=mpioperator/base.
ARG BASE=python:3.13-slim
FROM ${BASE}
ARG EXTRAS=files,onnx
COPY pyproject.toml README.md LICENSE /src/
COPY mlp_xp /src/mlp_xp
# An image of Debian or Ubuntu without Python gets its own.
RUN python3 -c "import ensurepip, venv" || { apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; }
RUN python3 -m venv /opt/mlp-xp && /opt/mlp-xp/bin/pip install --no-cache-dir "/src[${EXTRAS}]" && rm -r /src
ENV PATH=/opt/mlp-xp/bin:$PATH
RUN useradd --create-home mlp-xp
USER mlp-xp
ENTRYPOINT ["mlp-xp"]
CMD ["--help"]
