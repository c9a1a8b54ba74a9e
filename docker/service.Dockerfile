# The service: what it needs to answer a request, and no torch.
FROM python:3.11-slim-bookworm AS requirements
COPY pyproject.toml /
RUN python -c 'import tomllib; project = tomllib.load(open("/pyproject.toml", "rb"))["project"]; \
print(*project["dependencies"], *project["optional-dependencies"]["store"], sep="\n")' > /requirements.txt

# Sees no code and of pyproject.toml only that list, so that no other change installs anything again.
FROM python:3.11-slim-bookworm AS dependencies
COPY constraints.txt /
COPY --from=requirements /requirements.txt /
RUN python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install --no-cache-dir --constraint /constraints.txt --requirement /requirements.txt

FROM python:3.11-slim-bookworm
# The trainer has the same uid: both write to the artifacts. A new volume takes its owner from this directory.
RUN useradd --uid 10001 --create-home nextclick \
 && install --directory --owner=nextclick --group=nextclick /app/artifacts
COPY --from=dependencies /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 NEXTCLICK_HOST=0.0.0.0 \
    NEXTCLICK_METRICS_HOST=0.0.0.0
WORKDIR /app
COPY docker/with-redis.sh docker/with-redis.sh
COPY service service
COPY clients/js/src clients/js/src
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["docker/with-redis.sh", "python", "-m", "service"]
