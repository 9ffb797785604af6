/** The story, step by step. */
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { StepFailed, type Shell } from './commands.ts';
import { ROOT, type Place } from './place.ts';
import { childrenOf, isAlive, postmasterIn, type Service, type Services } from './processes.ts';
import { prompt, say } from './terminal.ts';
import { answersTemporal, until } from './wait.ts';

export interface Step {
  readonly title: string;
  /** A sentence or two, before anything runs. */
  readonly why: string;
  take(): Promise<void>;
}

interface Stage {
  readonly place: Place;
  readonly shell: Shell;
  readonly services: Services;
}

/** Orders up to the last one before the chosen moment, and up to the last one of all. */
const LAST_BEFORE = 40;
const LAST = 60;
const CUSTOMERS = 100_000;

/** All steps, in their order. */
export function createSteps(stage: Stage): Step[] {
  const moment = new ChosenMoment();
  return [
    temporal(stage),
    ...(stage.place.store === 's3' ? [objectStore(stage)] : []),
    database(stage),
    worker(stage),
    manifest(stage),
    archiving(stage),
    backup(stage),
    schedule(stage),
    verification(stage),
    accident(stage, moment),
    disaster(stage),
    restore(stage, moment),
    proof(stage, moment),
    whatIsKnown(stage),
  ];
}

/** The moment to go back to, and the transactions on both sides of it, in the database's own words. */
class ChosenMoment {
  time = '';
  before = '';
  after = '';
}

function temporal({ place, services }: Stage): Step {
  const { ports } = place;
  const log = path.join(place.scratch, 'logs/temporal.log');
  return {
    title: 'Temporal, with its Web UI',
    why: 'Backups and restores are workflows there: durable, retried, visible. Archiving does without it.',
    async take() {
      const line = `walkeep dev --port ${ports.temporal} --ui-port ${ports.ui} --state temporal.db`;
      const server = startInBackground({ place, services }, 'temporal', line);
      await until('Temporal to answer', () => answersTemporal(ports.temporal), {
        giveUp: () => !services.isRunning(server),
        advice: `look at its log; is another program using port ${ports.temporal} or ${ports.ui}?`,
        log,
      });
      say(`    Web UI: http://127.0.0.1:${ports.ui}`);
    },
  };
}

function objectStore({ place, shell, services }: Stage): Step {
  return {
    title: 'An S3 server',
    why: 'versitygw serves a folder as S3; a folder in it is a bucket. The keys are made for this run.',
    async take() {
      const keys = { id: 'walkeep-quickstart', secret: randomBytes(20).toString('hex') };
      writeFileSync(
        path.join(place.scratch, 's3.env'),
        `ROOT_ACCESS_KEY=${keys.id}\nROOT_SECRET_KEY=${keys.secret}\n`,
        { mode: 0o600 },
      );
      writeFileSync(path.join(place.scratch, 's3-keys.yaml'), secretManifest(keys), { mode: 0o600 });
      await shell.show('mkdir -p s3/backups');
      const line = `versitygw --port 127.0.0.1:${place.ports.s3} --health /health --quiet posix s3`;
      const server = startInBackground({ place, services }, 's3', line, 'set -a; . ./s3.env; ');
      await until(
        'the S3 server to answer',
        async () => (await fetch(`http://127.0.0.1:${place.ports.s3}/health`)).ok,
        {
          giveUp: () => !services.isRunning(server),
          advice: 'look at its log',
          log: path.join(place.scratch, 'logs/s3.log'),
        },
      );
    },
  };
}

function database({ place, shell, services }: Stage): Step {
  const log = path.join(place.scratch, 'logs/postgres.log');
  return {
    title: `PostgreSQL ${place.major}, with some data`,
    why: 'A new server as anybody makes one. archive_mode needs a restart, so it is on from the start.',
    async take() {
      await shell.show(
        'initdb --pgdata=pgdata --username=postgres --auth=trust --encoding=UTF8 --no-locale --data-checksums > logs/initdb.log',
        { log: path.join(place.scratch, 'logs/initdb.log'), advice: 'the last lines of the log say why' },
      );
      await shell.show(`cat >> pgdata/postgresql.conf <<EOT\n${settings(place)}\nEOT`);
      await shell.show('pg_ctl --pgdata=pgdata --log=logs/postgres.log --wait --timeout=60 start', {
        lines: 0,
        advice: 'the last lines of the log say why',
        log,
      });
      services.record('postgres', requirePostmaster(path.join(place.scratch, 'pgdata')));
      await shell.show(`psql -qf ${ROOT}/scripts/grants.sql`);
      await shell.show(
        'psql -qc "CREATE TABLE orders (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())"' +
          ` -c "CREATE TABLE customers AS SELECT id, md5(id::text) AS name FROM generate_series(1, ${CUSTOMERS}) AS id"`,
      );
      await shell.show(`${oneByOne(1, 20)}   # 20 orders, each its own transaction`);
    },
  };
}

function settings({ scratch }: Place): string {
  return [
    "listen_addresses = ''",
    `unix_socket_directories = '${scratch}/run'`,
    'archive_mode = on',
    'archive_timeout = 60s',
    "timezone = 'UTC'",
    "log_timezone = 'UTC'",
  ].join('\n');
}

function oneByOne(first: number, last: number): string {
  return `seq ${first} ${last} | sed 's/.*/INSERT INTO orders VALUES (&);/' | psql -q`;
}

/** @throws StepFailed when no server runs there */
function requirePostmaster(directory: string): number {
  const pid = postmasterIn(directory);
  if (pid === undefined) throw new StepFailed(`there is no server in ${directory}`, 'look at its log');
  return pid;
}

function worker({ place, services }: Stage): Step {
  const log = path.join(place.scratch, 'logs/worker.log');
  return {
    title: 'The worker',
    why: 'One beside each PostgreSQL, as the owner of its files, with the database role that scripts/grants.sql made.',
    async take() {
      const line = `env PGUSER=walkeep walkeep worker --cluster shop --instance shop-1 --pgdata pgdata --metrics 127.0.0.1:${place.ports.metrics}`;
      const running = startInBackground({ place, services }, 'worker', line);
      await until(
        'the worker to be ready',
        async () => (await fetch(`http://127.0.0.1:${place.ports.metrics}/readyz`)).ok,
        {
          giveUp: () => !services.isRunning(running),
          advice: 'look at its log',
          log,
        },
      );
      say(`    metrics and health: http://127.0.0.1:${place.ports.metrics}/metrics, /healthz`);
    },
  };
}

function manifest({ place, shell }: Stage): Step {
  return {
    title: 'A manifest says what is wanted',
    why: "CloudNativePG's own kinds: a Cluster says where its WAL and its backups go, a Backup asks for one.",
    async take() {
      // walkeep never makes it: an empty directory in the place of a file system that is not mounted would look well
      if (place.store === 'directory') await shell.show('mkdir repository');
      writeFileSync(path.join(place.scratch, 'shop.yaml'), shopManifest(place));
      await shell.show('cat shop.yaml', { lines: 60 });
      const secret = place.store === 's3' ? '-f s3-keys.yaml ' : '';
      await shell.show(`walkeep apply ${secret}-f shop.yaml`);
    },
  };
}

function shopManifest({ scratch, store, ports }: Place): string {
  const where =
    store === 's3'
      ? [
          'destinationPath: s3://backups',
          `endpointURL: http://127.0.0.1:${ports.s3}`,
          's3Credentials:',
          '  accessKeyId: {name: s3-keys, key: ACCESS_KEY_ID}',
          '  secretAccessKey: {name: s3-keys, key: SECRET_ACCESS_KEY}',
        ]
      : [`destinationPath: file://${scratch}/repository`];
  return `apiVersion: postgresql.cnpg.io/v1
kind: Cluster
metadata:
  name: shop
spec:
  instances: 1
  storage:
    size: 1Gi
  backup:
    barmanObjectStore:
      ${where.join('\n      ')}
      wal:
        compression: gzip
      data:
        compression: gzip
        jobs: 2
        immediateCheckpoint: true   # otherwise PostgreSQL takes some minutes, to be gentle
---
apiVersion: postgresql.cnpg.io/v1
kind: Backup
metadata:
  name: shop-first
spec:
  cluster:
    name: shop
`;
}

function secretManifest({ id, secret }: { id: string; secret: string }): string {
  return `apiVersion: v1
kind: Secret
metadata:
  name: s3-keys
stringData:
  ACCESS_KEY_ID: ${id}
  SECRET_ACCESS_KEY: ${secret}
`;
}

async function waitForBackup(shell: Shell, name: string | RegExp, place: Place): Promise<void> {
  const log = path.join(place.scratch, 'logs/worker.log');
  await until(
    `the backup ${String(name)} to complete`,
    async () => {
      const list: unknown = JSON.parse(await shell.ask('walkeep get backups -o json'));
      const { phase, error } = statusOf(list, name);
      if (phase === 'failed')
        throw new StepFailed(
          `the backup ${String(name)} failed: ${error ?? ''}`,
          'the log may say more',
          log,
        );
      return phase === 'completed';
    },
    { advice: 'look at the Web UI, and at the log', log, everyMs: 500 },
  );
}

/** The status of a Backup in the list that `get backups -o json` prints, which has the shape of Kubernetes' lists. */
function statusOf(list: unknown, name: string | RegExp): { phase?: string; error?: string } {
  const { items } = list as {
    items?: { metadata?: { name?: string }; status?: { phase?: string; error?: string } }[];
  };
  const isMeant = (given = '') => (typeof name === 'string' ? given === name : name.test(given));
  return items?.find(({ metadata }) => isMeant(metadata?.name))?.status ?? {};
}

function archiving({ place, shell }: Stage): Step {
  return {
    title: 'Archiving on',
    why: 'PostgreSQL gets the archive_command for this host, and the Backup of the manifest can end: its WAL is archived.',
    async take() {
      await shell.show('walkeep archive-command --cluster shop --pgdata pgdata --sql | psql -qAt');
      await shell.show('psql -Atc "SHOW archive_command"');
      await waitForBackup(shell, 'shop-first', place);
      await shell.show('walkeep get backups');
      say(
        '\n  Everything that a restore will depend on, item by item, each with what to do if it is not right:',
      );
      await shell.show('walkeep check shop', { lines: 40, advice: 'the items above say it' });
    },
  };
}

function backup({ place, shell }: Stage): Step {
  return {
    title: 'A backup on demand',
    why: 'While PostgreSQL works. It counts only when all WAL that it needs is in the repository and was looked at again.',
    async take() {
      await shell.show('walkeep backup shop --name before-the-accident --wait', {
        advice: 'walkeep describe backup before-the-accident',
        log: path.join(place.scratch, 'logs/worker.log'),
      });
    },
  };
}

function schedule({ place, shell }: Stage): Step {
  return {
    title: 'A schedule, and what is promised',
    why: 'Backups every night and one at once, how long they are kept, how old they may get, and a weekly proof.',
    async take() {
      writeFileSync(path.join(place.scratch, 'shop-rules.yaml'), rulesManifest(place));
      await shell.show('cat shop-rules.yaml', { lines: 60 });
      await shell.show('walkeep apply -f shop-rules.yaml');
      await waitForBackup(shell, SCHEDULED, place);
      await shell.show('walkeep get scheduledbackups');
      await shell.show('walkeep get backups');
    },
  };
}

/** The Backup that `immediate: true` asks for is named after its moment. */
const SCHEDULED = /^shop-nightly-\d{14}$/;

function rulesManifest({ scratch }: Place): string {
  return `apiVersion: postgresql.cnpg.io/v1
kind: ScheduledBackup
metadata:
  name: shop-nightly
spec:
  schedule: "0 0 2 * * *"      # six fields, seconds first, as CloudNativePG has it
  immediate: true              # and one at once
  cluster:
    name: shop
---
apiVersion: walkeep.io/v1
kind: BackupPolicy
metadata:
  name: shop
spec:
  clusters: [shop]
  objectives: {rpo: 5m, backupAge: 26h, provenAge: 8d}
  retention: {keepLast: 3, daily: 7, weekly: 4, monthly: 0, yearly: 0}
---
apiVersion: walkeep.io/v1
kind: ScheduledVerification
metadata:
  name: shop-weekly
spec:
  schedule: "0 0 4 * * 0"
  cluster:
    name: shop
  checks:
    queries:
      - {database: postgres, sql: "select count(*) >= 20 from orders", expect: "t"}
  scratch:
    directory: ${scratch}/scratch   # its own disk, on a real machine
    minFree: 1%                     # 20% if not said; this database is tiny
  readBudget: null                  # a share of the repository a day, on a real machine
`;
}

function verification({ place, shell }: Stage): Step {
  return {
    title: 'A backup is proved by restoring it',
    why: 'Into a scratch directory, replayed to the end, started in isolation, checked, and removed: by the rules above.',
    async take() {
      const log = path.join(place.scratch, 'logs/worker.log');
      await shell.show('mkdir -p scratch && walkeep verify shop --rules shop-weekly', {
        lines: 40,
        advice: 'walkeep get verifications says what was found',
        log,
      });
      await shell.show('walkeep get verifications');
      say(
        '\n  What retention would do, with the reasons (nothing is old enough here), and what can be restored:',
      );
      await shell.show('walkeep sweep shop --dry-run', { lines: 30 });
      await shell.show('walkeep audit shop', { lines: 30 });
    },
  };
}

function accident({ place, shell }: Stage, moment: ChosenMoment): Step {
  return {
    title: 'Business, a moment, and a mistake',
    why: `Orders 21 to ${LAST_BEFORE} come in; somebody looks at the clock; then a DELETE without much thought, and more orders.`,
    async take() {
      await shell.show(oneByOne(21, LAST_BEFORE));
      await sleep(700);
      const time = await shell.show('psql -Atc "SELECT clock_timestamp()"');
      await sleep(700);
      await shell.show('psql -qc "DELETE FROM orders WHERE id <= 30"');
      await shell.show(oneByOne(LAST_BEFORE + 1, LAST));
      const rows = await shell.ask(
        `psql -Atc "SELECT at FROM orders WHERE id IN (${LAST_BEFORE}, ${LAST_BEFORE + 1}) ORDER BY id"`,
      );
      const [before = '', after = ''] = rows.split('\n');
      Object.assign(moment, { time: time.trim(), before, after });
      // The same number of digits in front and one time zone: as texts they compare as times.
      if (!(before < moment.time && moment.time < after)) {
        throw new StepFailed(
          `the moment ${moment.time} is not between ${before} and ${after}`,
          'was the clock set? Run it again',
        );
      }
      say(`\n  Order ${LAST_BEFORE} was written at ${before},`);
      say(`  the moment to go back to is     ${moment.time},`);
      say(`  order ${LAST_BEFORE + 1} was written at ${after}.`);
      await archiveAll(shell, place);
    },
  };
}

/** Closes the segment and waits for it: what PostgreSQL has not archived is nowhere but on its own disk. */
async function archiveAll(shell: Shell, place: Place): Promise<void> {
  say(
    '\n  What is not archived yet exists only on this disk. archive_timeout would archive it within a minute;',
  );
  say('  here it is done at once:');
  const answered = await shell.show('psql -Atc "SELECT pg_walfile_name(pg_switch_wal())"');
  const segment = answered.trim();
  const archived = async (): Promise<boolean> =>
    (await shell.ask('psql -Atc "SELECT last_archived_wal FROM pg_stat_archiver"')).trim() >= segment;
  await until(`segment ${segment} to be archived`, archived, {
    advice: 'PostgreSQL says in its log why archive_command failed',
    log: path.join(place.scratch, 'logs/postgres.log'),
  });
  await shell.show(
    'psql -P footer=off -c "SELECT archived_count, failed_count, last_archived_wal FROM pg_stat_archiver"',
  );
}

function disaster({ place, shell, services }: Stage): Step {
  return {
    title: 'The disaster',
    why: 'No shutdown, no warning: every process of PostgreSQL is killed, and its data directory is gone.',
    async take() {
      const postmaster = requirePostmaster(path.join(place.scratch, 'pgdata'));
      const all = [postmaster, ...childrenOf(postmaster)];
      const memory = sharedMemoryOf(path.join(place.scratch, 'pgdata'));
      services.forget('postgres');
      // One of the children may have ended by itself in the meantime.
      await shell.show(`kill -9 ${all.join(' ')}`, { accept: [1], lines: 0 });
      await until('the processes to be gone', () => !all.some(isAlive), {
        everyMs: 20,
      });
      // The socket's lock file names a process that a container's first process may leave as a zombie for ever, and
      // then no other server could use that socket.
      await shell.show('rm -rf pgdata run/.s.PGSQL.* && ls pgdata', { accept: [2] });
      // What such an end leaves behind in the kernel: nobody else would ever remove it.
      if (memory !== undefined) await shell.ask(`ipcrm -m ${memory} 2>/dev/null || true`);
    },
  };
}

/** The kernel's number of a server's shared memory, as `postmaster.pid` has it in its seventh line. */
function sharedMemoryOf(directory: string): number | undefined {
  const line = readFileSync(path.join(directory, 'postmaster.pid'), 'utf8').split('\n')[6] ?? '';
  const id = Number(line.trim().split(/\s+/)[1]);
  return Number.isInteger(id) ? id : undefined;
}

function restore({ place, shell, services }: Stage, moment: ChosenMoment): Step {
  const log = path.join(place.scratch, 'restored/walkeep_recovery.log');
  return {
    title: 'Back to that moment',
    why: 'From the repository alone, into a new directory: neither Temporal nor the worker is needed for this.',
    async take() {
      await shell.show(
        `walkeep restore shop --target-time '${moment.time}' --target-directory restored --start`,
        {
          lines: 30,
          advice: 'what it wrote says why',
          log,
        },
      );
      services.record('postgres', requirePostmaster(path.join(place.scratch, 'restored')));
      say("\n  In PostgreSQL's own words:");
      await shell.show("grep -o 'recovery stopping.*' restored/walkeep_recovery.log");
    },
  };
}

function proof({ shell }: Stage, moment: ChosenMoment): Step {
  return {
    title: 'The proof',
    why: `Orders 1 to ${LAST_BEFORE} must be there, the deleted ones too, and none that came after the moment.`,
    async take() {
      await shell.show(
        'psql -P footer=off -c "SELECT count(*), min(id), max(id), max(at) AS newest FROM orders"',
      );
      await shell.show('psql -P footer=off -c "SELECT count(*) AS customers FROM customers"');
      const answered = await shell.ask(
        `psql -Atc "SELECT string_agg(id::text, ',' ORDER BY id) FROM orders" -c "SELECT count(*), count(DISTINCT name) FROM customers"`,
      );
      const [orders, customers] = answered.split('\n');
      const expected = Array.from({ length: LAST_BEFORE }, (_, index) => index + 1).join(',');
      if (orders !== expected)
        throw new StepFailed(
          `the restored database has other orders than 1 to ${LAST_BEFORE}: ${orders}`,
          NOT_PROVEN,
        );
      if (customers !== `${CUSTOMERS}|${CUSTOMERS}`)
        throw new StepFailed(`the restored customers are not ${CUSTOMERS}: ${customers}`, NOT_PROVEN);
      say(`\n  PROVEN: orders 1 to ${LAST_BEFORE} are there, the last of them written at ${moment.before};`);
      say(
        `  none of ${LAST_BEFORE + 1} to ${LAST} is, the first of them written at ${moment.after}, and the DELETE never happened.`,
      );
    },
  };
}

const NOT_PROVEN =
  'please report this: it must never happen. The scratch folder has all that is needed to look into it';

function whatIsKnown({ shell }: Stage): Step {
  return {
    title: 'What walkeep knows now',
    why: 'The backups stay in the repository, whatever happens to databases and to Temporal.',
    async take() {
      await shell.show('walkeep get backups');
      await shell.show('walkeep status shop', { lines: 30 });
    },
  };
}

/** @param first what the shell does before the program, such as reading secrets, which must be on no command line */
function startInBackground(
  { place, services }: Pick<Stage, 'place' | 'services'>,
  name: string,
  line: string,
  first = '',
): Service {
  const log = `logs/${name}.log`;
  prompt(`${first === '' ? line : `(${first}${line})`} > ${log} 2>&1 &`);
  return services.start(name, `${first}exec ${line}`, path.join(place.scratch, log), place.environment);
}
