# Holds a pod's namespaces open.
FROM scratch
ARG TARGETARCH
COPY dist/${TARGETARCH}/busybox /bin/busybox
USER 65535:65535
ENTRYPOINT ["/bin/busybox", "sleep", "2147483647"]
