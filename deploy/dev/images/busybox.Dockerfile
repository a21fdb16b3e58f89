# A shell to look around with, and for tests that need no agent of ours.
FROM scratch
ARG TARGETARCH
COPY dist/${TARGETARCH}/busybox /bin/busybox
COPY applets/ /bin/
ENV PATH=/bin
ENTRYPOINT ["/bin/sh"]
