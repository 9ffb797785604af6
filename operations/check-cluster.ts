import type pg from 'pg';
import { parsePostgresSeconds } from '../core/duration.ts';
import { BackupError, messageOf } from '../core/errors.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { readServerFacts, requireSuitable, type ServerFacts } from '../postgres/facts.ts';
import type { Repository } from '../repository/repository.ts';
import { walSpeedItem } from './check-wal-speed.ts';
import { readProtection, type Protection } from './protection.ts';
import { storeRecordItems } from './store-items.ts';
import type { WalAgentStatus } from './wal-agent.ts';

/**
 * One thing that was looked at. `problem`: the cluster is not protected as it should be. `warning`: it is, but not for
 * long or not as well as it could be. `unknown`: this host can't tell.
 */
export interface CheckItem {
  readonly item: string;
  readonly state: 'ok' | 'warning' | 'problem' | 'unknown';
  /** What was found. */
  readonly found: string;
  /** What to do, in one sentence; absent when nothing. */
  readonly todo?: string;
}

export interface CheckPorts {
  readonly manifest: ClusterManifest;
  openRepository(): Promise<Repository>;
  /** A connection to the cluster's PostgreSQL. */
  connectPostgres(): Promise<pg.Client>;
  /** The worker's own account of its archiving. */
  agentStatus(): Promise<WalAgentStatus>;
  /** What Temporal knows. */
  orchestration(): Promise<Orchestration>;
  /** Lines that PostgreSQL may have as `archive_command`, the recommended one first. */
  readonly archiveCommands: readonly string[];
  readonly now: Date;
}

export interface Orchestration {
  readonly address: string;
  /** Whether some worker polls the cluster's queue. */
  readonly workers: number;
  /** Whether the keeper of the cluster runs. */
  readonly keeper: boolean;
}

/** Looks at everything a backup of the cluster depends on. Changes nothing. Every item is looked at, whatever fails. */
export async function checkCluster(ports: CheckPorts, signal: AbortSignal): Promise<CheckItem[]> {
  const facts = await attempt(() => readFacts(ports));
  const protection = await attempt(async () => {
    const repository = await ports.openRepository();
    try {
      return await readProtection(repository, signal);
    } finally {
      await repository.close();
    }
  });
  const agent = await attempt(() => ports.agentStatus());
  const orchestration = await attempt(() => ports.orchestration());
  return [
    ...repositoryItems(ports, protection, facts),
    ...postgresItems(ports, facts),
    ...archiverItems(facts, agent, protection, ports.now),
    ...backupItems(protection, ports.now),
    ...orchestrationItems(orchestration),
  ];
}

interface Facts {
  readonly server: ServerFacts;
  readonly archiver: ArchiverRow;
  readonly archiveTimeoutSeconds: number;
}

interface ArchiverRow {
  readonly archived_count: string;
  readonly failed_count: string;
  readonly last_archived_wal: string | null;
  readonly last_archived_time: Date | null;
  readonly last_failed_wal: string | null;
  readonly last_failed_time: Date | null;
}

async function readFacts(ports: CheckPorts): Promise<Facts> {
  const client = await ports.connectPostgres();
  try {
    const server = await readServerFacts(client);
    const archiver = await client.query<ArchiverRow>(
      `select archived_count::text, failed_count::text, last_archived_wal, last_archived_time,
              last_failed_wal, last_failed_time
         from pg_catalog.pg_stat_archiver`,
    );
    const timeout = await client.query<{ seconds: string }>(
      `select setting as seconds from pg_catalog.pg_settings where name = 'archive_timeout'`,
    );
    const row = archiver.rows[0];
    if (!row) throw new BackupError('postgres-unavailable', 'pg_stat_archiver is empty');
    return { server, archiver: row, archiveTimeoutSeconds: Number(timeout.rows[0]?.seconds ?? 0) };
  } finally {
    await client.end();
  }
}

type Attempt<Value> = { readonly value: Value } | { readonly error: unknown };

async function attempt<Value>(work: () => Promise<Value>): Promise<Attempt<Value>> {
  try {
    return { value: await work() };
  } catch (error) {
    return { error };
  }
}

function failed(item: string, error: unknown, state: CheckItem['state'] = 'problem'): CheckItem {
  const hint = error instanceof BackupError ? error.hint : undefined;
  return { item, state, found: messageOf(error), ...(hint !== undefined && { todo: hint }) };
}

function repositoryItems(
  ports: CheckPorts,
  protection: Attempt<Protection>,
  facts: Attempt<Facts>,
): CheckItem[] {
  if ('error' in protection) return [failed('repository', protection.error)];
  const { owner, entries } = protection.value;
  const items: CheckItem[] = [
    {
      item: 'repository',
      state: 'ok',
      found: `readable: ${ports.manifest.spec.backup?.barmanObjectStore?.destinationPath ?? ''}`,
    },
  ];
  const { store } = protection.value;
  // the one protocol whose servers may pass over the condition
  const isProven = !/^s3:/i.test(ports.manifest.spec.backup?.barmanObjectStore?.destinationPath ?? '');
  if (store) items.push(...storeRecordItems(store, ports.now, { isProven }));
  const unreadable = entries.filter(({ problem }) => problem !== undefined);
  for (const { backupId, problem } of unreadable) {
    items.push({
      item: 'repository',
      state: 'warning',
      found: `the record of backup ${backupId} can't be used: ${problem ?? ''}`,
      todo: 'see walkeep describe backup; barman-cloud stops at an unreadable record',
    });
  }
  if (owner && 'value' in facts) {
    const same = owner.systemId === facts.value.server.systemId;
    items.push({
      item: 'owner of the archive',
      state: same ? 'ok' : 'problem',
      found: same
        ? `this cluster (system identifier ${owner.systemId})`
        : `another cluster: the archive's system identifier is ${owner.systemId}, PostgreSQL's is ${facts.value.server.systemId}`,
      ...(!same && {
        todo: 'give this cluster a serverName of its own in the manifest; nothing was overwritten',
      }),
    });
  }
  return items;
}

function postgresItems(ports: CheckPorts, facts: Attempt<Facts>): CheckItem[] {
  if ('error' in facts) return [failed('PostgreSQL', facts.error)];
  const { server, archiveTimeoutSeconds } = facts.value;
  const items: CheckItem[] = [
    {
      item: 'PostgreSQL',
      state: 'ok',
      found: `${Math.floor(server.version / 10_000)}.${server.version % 10_000}, ${server.inRecovery ? 'standby' : 'primary'}, WAL segments of ${server.segmentSize / 1024 / 1024} MiB`,
    },
  ];
  try {
    requireSuitable(server);
    items.push({
      item: 'settings for backups',
      state: 'ok',
      found: `wal_level ${server.walLevel}, archive_mode ${server.archiveMode}`,
    });
  } catch (error) {
    items.push(failed('settings for backups', error));
  }
  items.push(archiveCommandItem(ports.archiveCommands, server));
  items.push(archiveTimeoutItem(ports.manifest, archiveTimeoutSeconds));
  const speed = walSpeedItem(ports.manifest, server.segmentSize);
  if (speed) items.push(speed);
  if (!server.dataChecksums) {
    items.push({
      item: 'page checksums',
      state: 'warning',
      found: 'off: damage on disk is copied into backups unseen',
      todo: 'turn them on in the next maintenance window: pg_checksums --enable',
    });
  }
  return items;
}

function archiveCommandItem(expected: readonly string[], server: ServerFacts): CheckItem {
  const item = 'archive_command';
  const has = server.archiveCommand;
  if (expected.includes(has)) return { item, state: 'ok', found: 'as walkeep archive-command prints it' };
  const todo = `set it to what "walkeep archive-command" prints, and reload: ${expected[0] ?? ''}`;
  if (server.archiveLibrary !== '') {
    return {
      item,
      state: 'problem',
      found: `archive_library is ${server.archiveLibrary}, and archive_command is not used`,
      todo,
    };
  }
  if (has === '' || has === '(disabled)')
    return { item, state: 'problem', found: 'not set: no WAL is archived', todo };
  const ours = has.includes('wal-push');
  return {
    item,
    state: ours ? 'warning' : 'problem',
    found: ours ? `another line of walkeep's: ${has}` : `something else archives: ${has}`,
    todo,
  };
}

function archiveTimeoutItem(manifest: ClusterManifest, seconds: number): CheckItem {
  const item = 'archive_timeout';
  const wished = wishedTimeoutSeconds(manifest);
  const found = seconds === 0 ? '0: a segment is archived only when it is full' : `${seconds} s`;
  if (wished !== undefined && wished !== seconds) {
    return {
      item,
      state: 'warning',
      found: `${found}; the manifest wishes ${wished} s`,
      todo: `ALTER SYSTEM SET archive_timeout = '${wished}s'; SELECT pg_reload_conf()`,
    };
  }
  if (seconds > 0) return { item, state: 'ok', found: `${found}: at most so much is lost with the host` };
  return {
    item,
    state: 'warning',
    found,
    todo: "on a quiet database hours of transactions may be on this host only: ALTER SYSTEM SET archive_timeout = '5min'",
  };
}

/** The manifest's wish for `archive_timeout`, from either place it may stand in; it was validated when it was applied. */
function wishedTimeoutSeconds(manifest: ClusterManifest): number | undefined {
  const text =
    manifest.spec.postgresql?.parameters['archive_timeout'] ??
    manifest.spec.backup?.barmanObjectStore?.wal?.archiveTimeout;
  return text === undefined ? undefined : parsePostgresSeconds(text);
}

function archiverItems(
  facts: Attempt<Facts>,
  agent: Attempt<WalAgentStatus>,
  protection: Attempt<Protection>,
  now: Date,
): CheckItem[] {
  const items: CheckItem[] = [];
  if ('value' in facts) items.push(archiverItem(facts.value.archiver));
  if ('error' in agent) {
    items.push({
      ...failed('worker', agent.error, 'warning'),
      todo: 'start walkeep worker on this host; until then each segment is archived by the full client, which is slower',
    });
  } else {
    const { waiting } = agent.value;
    items.push({
      item: 'worker',
      state: (waiting?.segments ?? 0) > 20 ? 'warning' : 'ok',
      found: `answers on its socket; ${waiting?.segments ?? 0} segments wait to be archived`,
      ...((waiting?.segments ?? 0) > 20 && { todo: 'look at walkeep logs and at the rate of the store' }),
    });
  }
  if ('value' in protection) {
    const { newestSegment, gaps } = protection.value;
    items.push(
      newestSegment
        ? {
            item: 'newest archived segment',
            state: 'ok',
            found: `${newestSegment.name}, ${minutes(now, newestSegment.storedAt)} min ago`,
          }
        : {
            item: 'newest archived segment',
            state: 'problem',
            found: 'none: nothing has been archived yet',
            todo: 'SELECT pg_switch_wal() makes PostgreSQL archive one; then check again',
          },
    );
    for (const gap of gaps) {
      items.push({
        item: 'gap in the archive',
        state: 'problem',
        found: `timeline ${gap.timeline}: ${gap.count} missing, ${gap.firstMissing} to ${gap.lastMissing}; recovery can't pass it`,
        todo: 'take a base backup now (walkeep backup CLUSTER --wait): moments after it can then be restored again',
      });
    }
  }
  return items;
}

function archiverItem(row: ArchiverRow): CheckItem {
  const item = "PostgreSQL's archiver";
  const failedLast =
    row.last_failed_time !== null &&
    (row.last_archived_time === null || row.last_failed_time > row.last_archived_time);
  if (failedLast) {
    return {
      item,
      state: 'problem',
      found: `the last attempt failed: ${row.last_failed_wal ?? ''} at ${row.last_failed_time?.toISOString() ?? ''} (${row.failed_count} failures in all)`,
      todo: "the reason is in PostgreSQL's log; WAL stays in pg_wal until it is archived",
    };
  }
  if (row.last_archived_time === null) return { item, state: 'warning', found: 'has archived nothing yet' };
  return {
    item,
    state: 'ok',
    found: `last archived ${row.last_archived_wal ?? ''} at ${row.last_archived_time.toISOString()}`,
  };
}

const BACKUP_AGE_HOURS = 26;

function backupItems(protection: Attempt<Protection>, now: Date): CheckItem[] {
  if ('error' in protection)
    return [{ item: 'base backups', state: 'unknown', found: 'the repository could not be read' }];
  const { usable } = protection.value;
  const newest = usable.at(-1);
  if (!newest?.endTime) {
    return [
      {
        item: 'base backups',
        state: 'problem',
        found: 'none: nothing can be restored yet',
        todo: 'take one: walkeep backup CLUSTER --wait',
      },
    ];
  }
  const hours = (now.getTime() - newest.endTime.getTime()) / 3_600_000;
  return [
    {
      item: 'base backups',
      state: hours > BACKUP_AGE_HOURS ? 'warning' : 'ok',
      found: `${usable.length}; the newest, ${newest.backupId}, ended ${hours < 1 ? `${Math.round(hours * 60)} min` : `${Math.round(hours)} h`} ago`,
      ...(hours > BACKUP_AGE_HOURS && {
        todo: 'take one (walkeep backup CLUSTER --wait): recovery replays all WAL since the newest',
      }),
    },
  ];
}

function orchestrationItems(orchestration: Attempt<Orchestration>): CheckItem[] {
  if ('error' in orchestration) {
    return [{ ...failed('Temporal', orchestration.error, 'warning') }];
  }
  const { address, workers, keeper } = orchestration.value;
  return [
    { item: 'Temporal', state: 'ok', found: `answers at ${address}` },
    workers > 0
      ? { item: 'workers of the cluster', state: 'ok', found: `${workers} polling` }
      : {
          item: 'workers of the cluster',
          state: 'problem',
          found: 'none polls its queue: backups would wait',
          todo: 'start walkeep worker next to PostgreSQL',
        },
    keeper
      ? { item: 'keeper of the cluster', state: 'ok', found: 'runs' }
      : {
          item: 'keeper of the cluster',
          state: 'problem',
          found: 'does not run',
          todo: 'apply the manifest again: walkeep apply -f FILE (it changes nothing else)',
        },
  ];
}

function minutes(now: Date, then: Date): number {
  return Math.max(0, Math.round((now.getTime() - then.getTime()) / 60_000));
}
