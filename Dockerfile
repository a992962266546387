# One file, two images: `--target exec` (default) runs one case and ends, `--target invoke` serves on port 4743.
# The base brings Python and PyTorch; any image with python3, pip, torch and torchvision will do.
ARG BASE_IMAGE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime
FROM ${BASE_IMAGE} AS product

# The last release built for CUDA 12, which the challenge's GPUs need.
ARG ONNXRUNTIME_GPU=1.26.0
# For machines behind their own package index or certificate authority; not kept in the image.
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_CERT

USER root
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# The environment sees the base's packages, and the constraint keeps pip from replacing its CUDA build of torch.
# Copied alone, so that a change of code does not install the packages again.
COPY requirements.txt /opt/app/
RUN python3 -m venv --system-site-packages --without-pip /opt/venv \
    && python -c "from importlib.metadata import version; [print(f'{name}=={version(name)}') for name in ('torch', 'torchvision')]" \
       | tee /opt/base-constraints.txt \
    && python -m pip install --no-cache-dir --constraint /opt/base-constraints.txt \
       --requirement /opt/app/requirements.txt "onnxruntime-gpu==${ONNXRUNTIME_GPU}" \
    && python -c "import torch; assert not torch.__file__.startswith('/opt/venv'), f'the torch of the base was replaced: {torch.__file__}'"

WORKDIR /opt/app
COPY pyproject.toml setup.py README.md LICENSE process.py train.py ./
COPY model model
COPY sctlab sctlab
COPY weights weights
# Editable, so that the commands, process.py and the weights beside it are one installation.
# Compiled now: the root file system is read-only later, and a cold start must not compile.
# Readable by any user, whatever the umask of the checkout was.
RUN python -m pip install --no-cache-dir --no-deps --editable . \
    && python -m compileall -q process.py train.py model sctlab \
    && find . ! -perm -o=r -exec chmod a+rX {} +

# Only /output and /tmp are writable when the platform runs this; whatever caches, caches there.
ENV HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    NUMBA_CACHE_DIR=/tmp/cache/numba \
    TORCH_HOME=/tmp/cache/torch \
    TORCHINDUCTOR_CACHE_DIR=/tmp/cache/torchinductor \
    TRITON_CACHE_DIR=/tmp/cache/triton \
    CUDA_CACHE_PATH=/tmp/cache/cuda \
    HF_HOME=/tmp/cache/huggingface
USER 1000:1000
LABEL org.opencontainers.image.title="sctlab" \
      org.opencontainers.image.description="Synthetic CT from MR and CBCT: inference, training, registration and evaluation" \
      org.opencontainers.image.licenses="Apache-2.0"
ARG REVISION=unknown
ENV SCTLAB_REVISION="${REVISION}"
ARG VERSION=unknown
LABEL org.opencontainers.image.version="${VERSION}"
ENTRYPOINT ["python", "/opt/app/process.py"]

FROM product AS invoke
LABEL org.grand-challenge.api-method="invoke"
EXPOSE 4743
CMD ["--serve"]

FROM product AS exec
CMD []
