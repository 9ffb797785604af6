#!/bin/sh
# Runs in the worker's container, once: tells the worker what to do, and PostgreSQL whom to give its WAL to.
set -eu
walkeep apply -f /etc/walkeep/cluster.yaml
# psql quotes the line itself: it holds quotes of its own.
psql --set=ON_ERROR_STOP=1 --set=command="$(walkeep archive-command main)" <<'SQL'
ALTER SYSTEM SET archive_command = :'command';
SELECT pg_reload_conf();
SQL
walkeep check main
