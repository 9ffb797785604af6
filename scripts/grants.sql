-- The least role with which `walkeep worker` can back up this server, for PostgreSQL 15 to 18.
--
--   psql -d postgres -f scripts/grants.sql
--   psql -d postgres -v role=backup -v checkpoint=on -f scripts/grants.sql
--
-- role        its name, by default walkeep; made when it is not there
-- checkpoint  on: it may also ask for checkpoints by itself (pg_checkpoint), by default not
--
-- Run it as a superuser on the primary, in the database that the worker connects to (postgres): rights on functions
-- are per database. Run it as often as you like. It sets no password: choose how the role logs in (pg_hba.conf, peer,
-- certificate, \password). The worker reads files as the operating-system user that it runs as, not by SQL.

\set ON_ERROR_STOP on
\if :{?role} \else \set role walkeep \endif
\if :{?checkpoint} \else \set checkpoint off \endif

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

-- Taking rights away from somebody's administrator is not this script's to do.
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role' AND rolsuper) AS is_superuser \gset
\if :is_superuser
  \warn 'grants.sql: the role' :role 'is a superuser, which walkeep has no need of: give another name by -v role=NAME'
  SELECT 1 / 0 AS "the role is a superuser: nothing was changed";
\endif

SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec

-- REPLICATION: connect to a standby's sender, see walsenders in full, hold a replication slot.
ALTER ROLE :"role" LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;
GRANT CONNECT ON DATABASE :"DBNAME" TO :"role";

-- The online base backup, the switch that makes its last segment archive soon, and named restore points.
GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO :"role";
GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO :"role";
GRANT EXECUTE ON FUNCTION pg_switch_wal() TO :"role";
GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO :"role";

-- What the server is set to (data_directory, archive_command), and how archiving and replication are doing.
GRANT pg_read_all_settings, pg_read_all_stats TO :"role";

\if :checkpoint
  GRANT pg_checkpoint TO :"role";
\endif

COMMIT;

\echo The role :role can now be used by walkeep worker.
