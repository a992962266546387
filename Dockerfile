# One file, two images: `--target exec` (default) runs one case and ends, `--target invoke` serves on port 4743.
# The base brings Python and PyTorch; any image with python3, pip, torch and torchvision will do.
ARG BASE_IMAGE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime
# "@sha256:…" pins the very bytes of the base; a tag alone may be moved. build.sh prints the digest that it used.
ARG BASE_DIGEST=""
FROM ${BASE_IMAGE}${BASE_DIGEST} AS product

# Packages with their hashes: image (CUDA 12, as the challenge's GPUs need), image-cuda13 or cpu; .ci/lock.sh makes them.
ARG LOCK=image
# For machines behind their own package index or certificate authority; not kept in the image.
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_CERT

USER root
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# The environment sees the base's packages. The lock names every other one with the hashes of its files, so that what is
# installed is what was tested; torch and torchvision are not in it and can't be replaced.
# Copied alone, so that a change of code does not install the packages again.
COPY locks /opt/app/locks
RUN python3 -m venv --system-site-packages --without-pip /opt/venv \
    && python -m pip install --no-cache-dir --no-deps --require-hashes --requirement "/opt/app/locks/${LOCK}.txt" \
    && python -c "import torch; assert not torch.__file__.startswith('/opt/venv'), f'the torch of the base was replaced: {torch.__file__}'"

WORKDIR /opt/app
COPY pyproject.toml setup.py requirements.txt README.md LICENSE process.py train.py ./
COPY model model
COPY sctlab sctlab
COPY weights weights
# Editable, so that the commands, process.py and the weights beside it are one installation.
# Compiled now: the root file system is read-only later, and a cold start must not compile.
# Readable by any user, whatever the umask of the checkout was.
# pip has done its work: the base's own is often an old one with known flaws, and nothing here needs it.
RUN python -m pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
    && python -m compileall -q process.py train.py model sctlab \
    && find . ! -perm -o=r -exec chmod a+rX {} + \
    && while python -c "import pip" 2>/dev/null; do python -c "import pathlib, pip, shutil; \
site = pathlib.Path(pip.__file__).parents[1]; \
[shutil.rmtree(p) for p in (site / 'pip', *site.glob('pip-*.dist-info'), *site.glob('pip-*.egg-info'))]"; done

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
ARG BASE_IMAGE BASE_DIGEST
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
ENTRYPOINT ["python", "/opt/app/process.py"]

FROM product AS invoke
LABEL org.grand-challenge.api-method="invoke"
EXPOSE 4743
# The platform asks /health itself; this is for other engines. Loading the weights may take a while on a cold disk.
HEALTHCHECK --interval=30s --timeout=10s --start-period=300s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:4743/health', timeout=9)"]
CMD ["--serve"]

FROM product AS exec
CMD []
