import { Command, InvalidArgumentError, Option } from 'commander';
import { bootstrapRecovery } from '../core/bootstrap-recovery.ts';
import { BackupError } from '../core/errors.ts';
import type { RecoveryPlan, RecoveryTarget } from '../core/recovery.ts';
import { describePath } from '../core/timeline.ts';
import { parseLsn } from '../core/lsn.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { LoadedDocument } from '../manifests/load.ts';
import { checkFetch } from '../operations/check-fetch.ts';
import { holdForRestore } from '../operations/hold-backup.ts';
import { openRepository } from '../operations/open-repository.ts';
import {
  RECOVERY_FILE,
  referenceTo,
  resolveReference,
  type RepositoryReference,
} from '../operations/recovery-file.ts';
import { planFromRepository } from '../operations/recovery-plan.ts';
import { restore, type RestoredBackup } from '../operations/restore.ts';
import { createSecretResolver } from '../operations/secret-resolver.ts';
import { startRecovery, type RecoveryOutcome } from '../operations/start-recovery.ts';
import {
  findStateDirectory,
  openStateDirectory,
  requireCluster,
  type StateDirectory,
} from '../operations/state-directory.ts';
import { recoveryCommandLine } from '../operations/wal-command-lines.ts';
import { clusterFromFiles } from './cluster-files.ts';
import { namedReference } from './named-repository.ts';
import { namespaceOption, outputOption, parseClusterArgument, stateOption } from './options.ts';
import { formatBytes, formatDuration, note, printable } from './output.ts';
import { createProgressBar } from './progress.ts';
import { inWordsOf } from './words-without-manifest.ts';

/** The host that had the manifest may be the one that was lost. */
const WITHOUT_MANIFEST =
  'a restore needs no applied manifest: name the repository with --repository URL --server-name NAME, or give a file with the Cluster by -f FILE';

interface RestoreFlags {
  readonly namespace: string;
  readonly state?: string;
  readonly filename: readonly string[];
  readonly repository?: string;
  readonly serverName?: string;
  readonly endpointUrl?: string;
  readonly targetDirectory?: string;
  readonly tablespace: Readonly<Record<string, string>>;
  readonly owner?: string;
  readonly jobs?: number;
  readonly targetTime?: string;
  readonly targetLsn?: string;
  readonly targetXid?: string;
  readonly targetName?: string;
  readonly targetImmediate?: true;
  readonly exclusive?: true;
  readonly backupId?: string;
  readonly targetTimeline?: string;
  readonly acceptEnd?: true;
  readonly action: 'promote' | 'pause' | 'shutdown';
  readonly standby?: true;
  readonly set: Readonly<Record<string, string>>;
  readonly plan?: true;
  readonly start?: true;
  readonly postgresBin?: string;
  readonly output?: 'json';
}

/** `walkeep restore CLUSTER` */
export function restoreCommand(): Command {
  return new Command('restore')
    .summary('restore a cluster to any archived moment, from the repository alone')
    .description(
      'Chooses a base backup and a way along the timelines, restores into an empty directory and sets up the recovery.\n' +
        'It needs the repository and its keys only: no Temporal, no worker, no PostgreSQL that runs.',
    )
    .argument('[cluster]', 'NAME or NAMESPACE/NAME of an applied Cluster, or of one in -f')
    .addOption(namespaceOption())
    .option(
      '-f, --filename <file>',
      'manifest with the Cluster (its bootstrap.recovery counts); - is standard input',
      collect,
      [],
    )
    .option(
      '--repository <url>',
      'the repository itself, without any manifest; credentials from the environment or the host, see below',
    )
    .option('--server-name <name>', 'with --repository: the folder below it (default: CLUSTER)')
    .option(
      '--endpoint-url <url>',
      'with --repository: the address of an S3 server, another one of Google or Azure',
    )
    .option('-D, --target-directory <directory>', 'the new data directory: empty, or not there yet')
    .option(
      '--tablespace <name=directory>',
      'where a tablespace goes (default: where it was)',
      collectPairs,
      {},
    )
    .option(
      '--owner <user>',
      'as root: who is to own the files (default: the owner of the target or its parent)',
    )
    .addOption(new Option('--jobs <number>', 'parts unpacked side by side').argParser(positive))
    .option(
      '--target-time <time>',
      "recover up to a time, such as '2026-11-24 09:30:00+01:00'; without a zone it is UTC",
    )
    .option('--target-lsn <lsn>', 'recover up to a position in the WAL')
    .option('--target-xid <xid>', 'recover up to a transaction; needs --backup-id')
    .option('--target-name <name>', 'recover up to a restore point; needs --backup-id')
    .option('--target-immediate', 'recover until the backup is consistent, and no further; needs --backup-id')
    .option('--exclusive', 'stop just before the target instead of just after it')
    .option('--backup-id <id>', "begin with this backup: its id or name, or 'newest' or 'oldest'")
    .option(
      '--target-timeline <timeline>',
      "a number, 'latest' (the default) or 'current' (that of the backup)",
    )
    .option('--accept-end', 'take a hole in the archive for its end')
    .addOption(
      new Option('--action <what>', 'at the target')
        .choices(['promote', 'pause', 'shutdown'])
        .default('promote'),
    )
    .option('--standby', 'do not recover to a target: follow the archive as a standby')
    .option('--set <name=value>', 'a setting for the restored server, such as port=5433', collectPairs, {})
    .option('--plan', 'say what would be done, and do nothing')
    .option('--start', 'start PostgreSQL and wait for the end of the recovery')
    .option('--postgres-bin <directory>', 'with --start: where pg_ctl is')
    .addOption(outputOption(['json']))
    .addOption(stateOption())
    .addHelpText('after', EXAMPLES)
    .action(async (argument: string | undefined, flags: RestoreFlags) => {
      const interrupted = new AbortController();
      const stop = () =>
        interrupted.abort(new BackupError('restore-interrupted', 'the restore was interrupted'));
      process.once('SIGINT', stop).once('SIGTERM', stop);
      await run(argument, flags, interrupted.signal).catch((error: unknown) => {
        throw flags.repository === undefined ? error : inWordsOf('restore', error);
      });
    });
}

const EXAMPLES = `
Examples:
  walkeep restore production-postgres --plan
  walkeep restore production-postgres -D /srv/restored --target-time '2026-11-24 09:30:00+01:00' --start
  walkeep restore production-postgres -D /srv/restored --target-xid 4711 --backup-id 20261124T020000 --exclusive
  walkeep restore -f recovery-cluster.yaml -D /srv/restored
  walkeep restore --repository s3://backups/postgres --server-name production-postgres -D /srv/restored

--repository, and who opens it:
  file:///DIRECTORY     the user of this command
  s3://BUCKET/PREFIX    AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the host
  gs://BUCKET/PREFIX    GOOGLE_APPLICATION_CREDENTIALS, or the identity of the host
  https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX
                        AZURE_CLIENT_ID with AZURE_TENANT_ID and AZURE_CLIENT_SECRET, the identity of the host, or az login;
                        for a key, a SAS token or a connection string give the Cluster by -f FILE
PostgreSQL needs the same in its environment while it recovers.

The directory becomes startable in the very last step. After an interruption run the same command again.
`;

async function run(argument: string | undefined, flags: RestoreFlags, signal: AbortSignal): Promise<void> {
  const stateDirectory = flags.state ?? (await findStateDirectory(process.env));
  const state = openStateDirectory(stateDirectory);
  const source = await findSource(argument, flags, state);
  const resolver = createSecretResolver({ stateDirectory, environment: process.env });
  const access = await resolveReference(source.reference, resolver);
  const repository = openRepository(access);
  try {
    const target = { ...source.target, ...targetOf(flags, source.target) };
    const plan = await planFromRepository(repository, { target, acceptEnd: flags.acceptEnd }, { signal });
    if (flags.output !== 'json') process.stdout.write(printable(describePlan(plan, repository.url)));
    if (flags.plan) {
      if (flags.output === 'json') printJson({ repository: repository.url, plan });
      return;
    }
    const targetDirectory = flags.targetDirectory;
    if (targetDirectory === undefined) {
      throw new BackupError('usage', 'where to restore to is not said', {
        hint: 'add --target-directory DIRECTORY, or --plan to only see the plan',
      });
    }
    const secretsDirectory = process.env['WALKEEP_SECRETS_DIR'];
    const line = recoveryCommandLine({ recoveryFile: RECOVERY_FILE, stateDirectory, secretsDirectory });
    const began = performance.now();
    const held = await holdForRestore(repository, plan.backupId, targetDirectory, signal);
    if (held.warning !== undefined) note(`walkeep: ${held.warning}`);
    const bar = createProgressBar();
    let restored: RestoredBackup;
    try {
      restored = await restore(
        { repository, store: access.config, restoreCommand: line, reference: source.reference },
        {
          plan,
          targetDirectory,
          tablespaces: flags.tablespace,
          owner: flags.owner,
          jobs: flags.jobs,
          action: flags.action,
          isStandby: flags.standby === true,
          settings: flags.set,
        },
        { signal, onProgress: (progress) => bar.update(progress) },
      );
    } catch (error) {
      await held.release();
      throw error;
    } finally {
      bar.end();
    }
    // The recovery still reads WAL, for longer than this command may run.
    await held.renew();
    const complaint = await checkFetch(restored.targetDirectory, line, plan.firstSegment, signal);
    const warnings =
      complaint === undefined ? restored.warnings : [...restored.warnings, fetchWarning(complaint)];
    if (flags.output !== 'json') note(describeRestored({ ...restored, warnings }, performance.now() - began));
    const outcome = flags.start ? await start(restored, flags, signal) : undefined;
    if (outcome?.state === 'promoted' || outcome?.state === 'shut-down') await held.release();
    if (flags.output === 'json')
      printJson({
        repository: repository.url,
        plan,
        restored: { ...restored, warnings },
        ...(outcome && { recovery: outcome }),
      });
    else
      process.stdout.write(outcome ? describeOutcome(outcome, restored, plan) : nextSteps(restored, flags));
  } finally {
    await repository.close();
  }
}

// ---- from where ----------------------------------------------------------------------------------------------------

interface Source {
  readonly reference: RepositoryReference;
  readonly target: RecoveryTarget;
}

async function findSource(
  argument: string | undefined,
  flags: RestoreFlags,
  state: StateDirectory,
): Promise<Source> {
  const named = argument === undefined ? undefined : parseClusterArgument(argument);
  const namespace = named?.namespace ?? flags.namespace;
  const byFlags = namedReference(flags, { namespace, cluster: named?.cluster });
  if (byFlags) return { reference: byFlags.reference, target: {} };
  if (flags.filename.length > 0) {
    const wanted = { namespace, cluster: named?.cluster };
    const { manifest, documents } = await clusterFromFiles(state, flags.filename, wanted);
    return ownOrBootstrap(manifest, documents, state, 'bootstrap first');
  }
  if (named === undefined) {
    throw new BackupError('usage', 'which cluster is to be restored is not said', {
      hint: 'name an applied Cluster, or give -f MANIFEST or --repository URL',
    });
  }
  const { manifest } = await requireCluster(state, namespace, named.cluster, WITHOUT_MANIFEST);
  return ownOrBootstrap(manifest, [], state);
}

/**
 * An applied cluster is restored from its own repository. A manifest given with -f that says `bootstrap.recovery` is
 * about to be born, and is restored from where that says.
 */
async function ownOrBootstrap(
  manifest: ClusterManifest,
  documents: readonly LoadedDocument[],
  state: StateDirectory,
  order?: 'bootstrap first',
): Promise<Source> {
  const { name, namespace } = manifest.metadata;
  const own = manifest.spec.backup?.barmanObjectStore;
  if (own !== undefined && !(order === 'bootstrap first' && manifest.spec.bootstrap?.recovery)) {
    return { reference: referenceTo(own, name, namespace), target: {} };
  }
  const recovery = bootstrapRecovery(manifest);
  if (recovery.from === 'store') {
    return {
      reference: referenceTo(recovery.barmanObjectStore, recovery.serverName, namespace),
      target: recovery.target,
    };
  }
  const { backupName, target } = recovery;
  const given = documents.find(
    (document) => document.kind === 'Backup' && document.manifest.metadata.name === backupName,
  );
  const backup =
    given?.kind === 'Backup' ? given.manifest : (await state.backups.read(namespace, backupName))?.manifest;
  if (backup === undefined) {
    throw new BackupError(
      'backup-unknown',
      `bootstrap.recovery names Backup ${namespace}/${backupName}, which is not applied on this host`,
      {
        hint: 'recover by source instead, with backupID; or give the Backup document with -f as well',
      },
    );
  }
  const clusterName = backup.spec.cluster.name;
  const listed = documents.find(
    (document) =>
      document.kind === 'Cluster' &&
      document.manifest.metadata.name === clusterName &&
      document.manifest !== manifest,
  );
  const cluster =
    listed?.kind === 'Cluster'
      ? listed.manifest
      : (await requireCluster(state, namespace, clusterName, WITHOUT_MANIFEST)).manifest;
  const store = cluster.spec.backup?.barmanObjectStore;
  if (store === undefined)
    throw new BackupError(
      'manifest-invalid',
      `Cluster ${clusterName} of Backup ${backupName} has no spec.backup.barmanObjectStore`,
    );
  return { reference: referenceTo(store, clusterName, namespace), target };
}

/** What the command line says of the target; a target there replaces the manifest's. */
function targetOf(flags: RestoreFlags, fromManifest: RecoveryTarget): RecoveryTarget {
  const given = {
    targetTime: flags.targetTime,
    targetLSN: flags.targetLsn,
    targetXID: flags.targetXid,
    targetName: flags.targetName,
    targetImmediate: flags.targetImmediate,
  };
  const replaces = Object.values(given).some((value) => value !== undefined);
  return {
    ...(replaces ? given : {}),
    backupID: flags.backupId ?? fromManifest.backupID,
    targetTLI: flags.targetTimeline ?? fromManifest.targetTLI,
    exclusive: flags.exclusive ?? (replaces ? false : fromManifest.exclusive),
  };
}

// ---- the start -----------------------------------------------------------------------------------------------------

async function start(
  restored: RestoredBackup,
  flags: RestoreFlags,
  signal: AbortSignal,
): Promise<RecoveryOutcome> {
  note('starting PostgreSQL; the recovery runs');
  const request = {
    pgdata: restored.targetDirectory,
    majorVersion: restored.majorVersion,
    binDirectory: flags.postgresBin,
  };
  return startRecovery(request, { signal, onProgress: (file) => note(`  replaying ${file}`) });
}

// ---- what people read ----------------------------------------------------------------------------------------------

function describePlan(plan: RecoveryPlan, url: string): string {
  const path = plan.timelinePath.map(({ timeline, beginsAt, endsAt }) => ({
    timeline,
    beginsAt: parseLsn(beginsAt),
    ...(endsAt === undefined ? {} : { endsAt: parseLsn(endsAt) }),
  }));
  const name = plan.backupName === undefined ? '' : ` (${plan.backupName})`;
  const last = plan.tail?.file ?? plan.lastSegment;
  const [whyBackup = '', whyTimeline = ''] = plan.reasons.map((reason) => reason.replace(/^[^:]*: /, ''));
  const rows: [string, string][] = [
    ['from', url],
    ['backup', `${plan.backupId}${name}, ended ${plan.backupEndTime}: ${whyBackup}`],
    ['timeline', path.length === 1 ? `${plan.targetTimeline}: ${whyTimeline}` : describePath(path)],
    [
      'WAL',
      `${plan.walSegments} ${plan.walSegments === 1 ? 'segment' : 'segments'}, ${plan.firstSegment} to ${last}`,
    ],
    ['ends at', plan.endsAt],
    ...(plan.newestCommit === undefined
      ? []
      : [['reaches', `the newest commit of this WAL is of ${plan.newestCommit}`] as [string, string]]),
    ...plan.excluded
      .slice(-5)
      .map(({ backupId, reason }): [string, string] => ['left out', `${backupId}: ${reason}`]),
    ...plan.warnings.map((warning): [string, string] => ['note', warning]),
  ];
  return rows.map(([label, text]) => `${label.padEnd(9)} ${text}\n`).join('');
}

function describeRestored(restored: RestoredBackup, ms: number): string {
  const rate = ms > 0 ? formatBytes((restored.contentBytes / ms) * 1000) : '';
  const lines = [
    `restored ${restored.files} files, ${formatBytes(restored.contentBytes)}, in ${formatDuration(ms)} (${rate}/s)`,
    restored.isVerified
      ? 'every part was compared with the hashes recorded when it was taken'
      : 'the backup has no recorded hashes; its tars were read strictly',
    ...restored.tablespaces.map(({ name, directory }) => `tablespace "${name}" is in ${directory}`),
    ...restored.warnings.map((warning) => `note: ${warning}`),
  ];
  return lines.join('\n');
}

function fetchWarning(complaint: string): string {
  return `the owner of the directory can't fetch WAL: ${complaint}. Give that user the keys (walkeep create secret, or the environment PostgreSQL starts in) before it starts`;
}

function nextSteps({ targetDirectory, majorVersion }: RestoredBackup, flags: RestoreFlags): string {
  const begin = `pg_ctl -D ${targetDirectory} start        # PostgreSQL ${majorVersion}, as the owner of that directory`;
  if (flags.standby)
    return `\nNext:\n  ${begin}\n  It follows the archive. For streaming set primary_conninfo.\n`;
  return (
    `\nNext:\n  ${begin}\n` +
    `  While it recovers, wal-fetch brings the WAL; the log names the end. It is not archived anywhere yet: archive_mode is off.\n` +
    `  To protect it, give it a serverName of its own, apply its manifest, set archive_command (walkeep archive-command),\n` +
    `  and: ALTER SYSTEM RESET archive_mode, restart, walkeep backup.\n`
  );
}

function describeOutcome(
  outcome: RecoveryOutcome,
  { targetDirectory }: RestoredBackup,
  plan: RecoveryPlan,
): string {
  const where = outcome.reachedLsn === undefined ? '' : ` at ${outcome.reachedLsn}`;
  const last =
    outcome.lastTransaction === undefined ? '' : `; the last transaction ended ${outcome.lastTransaction}`;
  switch (outcome.state) {
    case 'promoted':
      return `\nrecovered${where} (${outcome.reason ?? plan.endsAt})${last}\nPostgreSQL runs in ${targetDirectory} on timeline ${outcome.timeline ?? '?'}; it is not archived anywhere yet: archive_mode is off\n`;
    case 'paused':
      return `\npaused at the target${last}; look at it, then: SELECT pg_wal_replay_resume()\n`;
    case 'shut-down':
      return `\nreached the target and shut down${last}\n`;
    case 'following':
      return `\nPostgreSQL follows the archive as a standby in ${targetDirectory}\n`;
  }
}

function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

// ---- arguments -----------------------------------------------------------------------------------------------------

function collect(value: string, before: readonly string[]): string[] {
  return [...before, value];
}

function collectPairs(value: string, before: Readonly<Record<string, string>>): Record<string, string> {
  // A tablespace may have any name, a directory any path; the first sign counts.
  const at = value.indexOf('=');
  if (at <= 0) throw new InvalidArgumentError('expected NAME=VALUE');
  return { ...before, [value.slice(0, at)]: value.slice(at + 1) };
}

function positive(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > 64)
    throw new InvalidArgumentError('expected a number from 1 to 64');
  return value;
}
