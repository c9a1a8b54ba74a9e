# The trainer: from clicks to live bundles. It holds the service too, since a bundle is proven with its code, and the
# console, which reads what the trainer wrote by the trainer's own readers.
FROM python:3.11-slim-bookworm AS requirements
COPY pyproject.toml /
RUN python -c 'import tomllib; project = tomllib.load(open("/pyproject.toml", "rb"))["project"]; \
extras = project["optional-dependencies"]; \
print(*project["dependencies"], *extras["train"], *extras["console"], *extras["store"], sep="\n")' > /requirements.txt

# Sees no code and of pyproject.toml only that list, so that no other change installs anything again.
FROM python:3.11-slim-bookworm AS dependencies
COPY constraints.txt /
# Training runs on the processor, and the default torch carries gigabytes of CUDA: name here an index of torch
# wheels built without it (--build-arg TORCH_INDEX=…).
ARG TORCH_INDEX
RUN python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install --no-cache-dir --constraint /constraints.txt --no-deps \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
COPY --from=requirements /requirements.txt /
RUN pip --python /venv/bin/python install --no-cache-dir --constraint /constraints.txt --requirement /requirements.txt

FROM python:3.11-slim-bookworm
# Process 1: it passes signals on, and reaps what a killed run leaves behind.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/*
# The service has the same uid: both write to the artifacts. A new volume takes its owner from this directory.
RUN useradd --uid 10001 --create-home nextclick \
 && install --directory --owner=nextclick --group=nextclick /app/artifacts
COPY --from=dependencies /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
COPY docker/trainer.sh docker/with-redis.sh docker/
COPY service service
COPY models models
COPY training training
COPY nextclick nextclick
COPY console console
RUN printf '#!/bin/sh\nexec /app/docker/with-redis.sh python -m nextclick "$@"\n' > /usr/local/bin/nextclick && chmod 755 /usr/local/bin/nextclick
# There is no git in here: manifests name the commit that is given to the build.
ARG SOURCE_COMMIT=unknown
ENV SOURCE_COMMIT=$SOURCE_COMMIT
USER 10001:10001
ENTRYPOINT ["tini", "--", "docker/with-redis.sh", "docker/trainer.sh"]
CMD ["schedule"]
