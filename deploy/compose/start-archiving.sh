#!/bin/sh
# Runs in the worker's container, once: keeps the store's keys, applies the manifest, and tells PostgreSQL whom to give
# its WAL to. The state directory is shared with the database's container, so that archiving works without the worker too.
set -eu
keys=$(mktemp -d)
trap 'rm -rf "$keys"' EXIT
printf %s "$S3_ACCESS_KEY" >"$keys/ACCESS_KEY_ID"
printf %s "$S3_SECRET_KEY" >"$keys/SECRET_ACCESS_KEY"
walkeep create secret generic s3-keys --from-file="$keys/ACCESS_KEY_ID" --from-file="$keys/SECRET_ACCESS_KEY"
walkeep apply -f /etc/walkeep/cluster.yaml
walkeep archive-command --cluster main --sql | psql --set=ON_ERROR_STOP=1
walkeep check main
