# The server, ready for a service: build on this image and put yours at /app/service.py, or mount it there.
#
#   docker build -t longshore .
#   docker run -v ./my-service:/app:ro -v orders-data:/data -p 127.0.0.1:50051:50051 longshore

ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY protos/longshore protos/longshore
COPY protos/google protos/google
COPY generated generated
COPY client client
COPY server server
# Without pip: nothing is installed where the server runs.
RUN python3 -m venv --without-pip /opt/longshore \
    && python3 -m pip --python /opt/longshore install --no-cache-dir --constraint constraints/highest.txt '.[server,auth,cli,stores]'

FROM ${BASE}
RUN useradd --system --uid 10001 --no-create-home longshore \
    && install --directory --owner=longshore /app /data
COPY --from=build /opt/longshore /opt/longshore
# Nothing but /data is written to: the rest may be read-only (docker run --read-only), temporary files of SQLite included.
ENV PATH=/opt/longshore/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SQLITE_TMPDIR=/data
WORKDIR /app
USER 10001
# The database and nothing else: what is here survives the container, and only one server at a time may have it.
VOLUME /data
EXPOSE 50051 9464
# Serving, not merely alive: the answer is NOT_SERVING while the server recovers and while it drains.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-m", "longshore_server.health_probe", "127.0.0.1:50051"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["longshore", "serve"]
# Nobody has to say who they are until you configure it (docs/guides/capabilities.md) and leave out the last flag: who can
# reach the port may call, so publish it with care.
CMD ["service.py:server", "--listen", "0.0.0.0:50051", "--data", "/data", "--metrics", "0.0.0.0:9464", "--allow-unauthenticated"]
