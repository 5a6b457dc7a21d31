#!/bin/sh
# HAProxy, as Ray Serve starts it (RAY_SERVE_HAPROXY_BINARY_PATH; api/ray_env.py), with what Serve's configuration lacks:
# - the client's address, last in X-Forwarded-For: else no ingress could tell which proxies' headers to believe;
# - none of the headers by which a client would steer Serve;
# - for uploads the one by which Serve leaves the body to the ingress: else it reads ahead of it without bound, and
#   gigabytes wait in memory for the disk. The ingress itself ends the work for a client who has left;
# - an end for clients that never finish their headers;
# and without what it has too much: `splice-request`, with which HAProxy 2.8 does not see a client leave whose body came in
# a packet of its own, as that of every SDK does: its request would run to the end for nobody.
# Arguments: -db -f <configuration> ...; MANTA_HAPROXY: the real one.
sed -i -e '/^ *option splice-request$/d' -e '/^frontend http_frontend$/a\
    option forwardfor\
    timeout http-request 30s\
    http-request del-header x-request-timeout-seconds\
    http-request del-header x-request-disconnect-disabled\
    http-request set-header x-request-disconnect-disabled ?1 if { method POST } { path_end /files /audio/transcriptions /audio/translations }\
    http-request del-header serve_multiplexed_model_id\
    http-request del-header serve-multiplexed-model-id' "$3" && exec "$MANTA_HAPROXY" "$@"
