# UniAS on an ordinary processor. NEVER BUILT WHERE IT WAS WRITTEN: no container engine was at hand there.
# tests/export/test_dockerfile.py runs its steps as a script instead, in a virtual environment.
#
#   docker build -t unias .
#   docker run --rm --network none -v "$PWD/model:/model:ro" -v "$PWD/photos:/photos:ro" -v "$PWD/out:/out" \
#     unias predict /model /photos -o /out
#
# Nothing is fetched when it runs; the user inside is 10001, to whom /out must be writable.

FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
ENV HF_HUB_OFFLINE=1 MPLBACKEND=Agg MPLCONFIGDIR=/tmp/matplotlib UNIAS_CACHE=/tmp/unias

WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# PyTorch's own index need not hold the versions of numpy, pillow and others that constraints.txt names.
RUN python -m pip install --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple -c constraints.txt torch torchvision
RUN python -m pip install -c constraints.txt ".[offline,export]"
RUN useradd --create-home --uid 10001 unias

USER unias
WORKDIR /home/unias
RUN unias --version && unias export --help > /dev/null

ENTRYPOINT ["unias"]
CMD ["--help"]
