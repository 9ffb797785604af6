import { Command } from 'commander';
import type { ListedBackup } from '../core/backup-list.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import { readBackupRecord, type BackupRecord } from '../repository/backup-record.ts';
import { inspectBackup, type BackupObjects } from '../repository/backup-parts.ts';
import { backupWorkflowId, type RunningBackupStatus } from '../workflows/interface.ts';
import { findCluster, withHost, type Host } from './host.ts';
import { findBackups, phaseOf, progressIn, requireNamed, type NamedBackup } from './known-backups.ts';
import { namespaceOption, stateOption } from './options.ts';
import { formatBytes, formatDuration, note, printable } from './output.ts';
import { progressText } from './progress.ts';

interface DescribeOptions {
  readonly namespace: string;
  readonly state?: string;
}

/** `walkeep describe` */
export function describeCommand(): Command {
  return new Command('describe')
    .summary('show one backup with all that is known of it')
    .addCommand(describeBackup());
}

function describeBackup(): Command {
  return new Command('backup')
    .summary('show one backup with all that is known of it')
    .argument('<name>', "the Backup's name, or a backup id")
    .addOption(namespaceOption())
    .addOption(stateOption())
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep describe backup before-migration\n  walkeep describe backup 20261124T020000\n',
    )
    .action(async (name: string, options: DescribeOptions) => {
      await withHost(options, async (host) => {
        const known = await findBackups(host, options.namespace);
        for (const source of known.silent) note(`walkeep: not asked: ${source}`);
        const found = requireNamed(known, options.namespace, name);
        for (const backup of found)
          process.stdout.write(printable(formatBackup(backup, await readDetails(host, backup))));
      });
    });
}

interface Details {
  readonly record?: BackupRecord;
  readonly objects?: BackupObjects;
}

const READ_MS = 60_000;

async function readDetails(host: Host, backup: ListedBackup): Promise<Details> {
  const { backupId } = backup.status;
  if (backup.heardFrom !== 'repository' || backupId === undefined) return {};
  const { manifest } = await findCluster(host, backup.namespace, backup.cluster);
  const repository = await openClusterRepository(manifest, host.resolver);
  const signal = AbortSignal.timeout(READ_MS);
  try {
    const record = await readBackupRecord(repository, backupId, signal);
    return { ...(record && { record }), objects: await inspectBackup(repository, backupId, signal) };
  } finally {
    await repository.close();
  }
}

function formatBackup(backup: NamedBackup, { record, objects }: Details): string {
  const { status, metadata } = backup;
  const progress = progressIn(backup);
  const lines: [string, string | undefined][] = [
    ['Name', backup.name],
    ['Namespace', backup.namespace],
    ['Cluster', backup.cluster],
    ['Method', backup.method],
    ['Phase', phaseOf(backup)],
    ['Progress', progress && progressText({ phase: 'copying', ...progress }, Date.now())],
    ['Rate limit', limitOf(backup)],
    ['Error', status.error ?? backup.problem],
    ['Backup ID', status.backupId],
    ['Started', status.startedAt],
    ['Ended', endOf(backup)],
    ['Instance', record?.instance ?? status.instanceID?.podName],
    ['From', record ? (record.fromStandby ? 'a standby' : 'the primary') : undefined],
    ['PostgreSQL', status.majorVersion === undefined ? undefined : String(status.majorVersion)],
    ['WAL', status.beginWal && status.endWal ? `${status.beginWal} to ${status.endWal}` : undefined],
    ['LSN', status.beginLSN && status.endLSN ? `${status.beginLSN} to ${status.endLSN}` : undefined],
    [
      'Destination',
      status.destinationPath ? `${status.destinationPath} (server ${status.serverName ?? ''})` : undefined,
    ],
    ['Keep', backup.keep],
    ['Labels', textsOf(metadata?.labels)],
    ['Annotations', textsOf(metadata?.annotations)],
    ['Owners', metadata?.ownerReferences?.map(({ kind, name }) => `${kind}/${name}`).join(', ')],
    ['Page checksums', record ? checksumsOf(record) : undefined],
    [
      'Integrity',
      record
        ? 'SHA-256 of every part, and PostgreSQL’s backup_manifest'
        : objects
          ? 'no record of walkeep: taken by another tool'
          : undefined,
    ],
    ['Readable by', objects && readableBy(objects)],
    ['Workflow', backup.heardFrom === 'motion' ? backupWorkflowId(backup.namespace, backup.name) : undefined],
  ];
  const width = Math.max(...lines.map(([label]) => label.length)) + 2;
  const head = lines
    .filter((line): line is [string, string] => line[1] !== undefined)
    .map(([label, value]) => `${`${label}:`.padEnd(width)}${value.replaceAll('\n', ' ')}\n`)
    .join('');
  const parts = (objects?.parts ?? []).map((part) => {
    const known = record?.parts.find(({ name }) => part.key.endsWith(`/${name}`));
    const plain = known ? ` (${formatBytes(known.plainBytes)} plain, ${known.members} members)` : '';
    return `  ${part.key.slice(part.key.lastIndexOf('/') + 1).padEnd(22)}${formatBytes(part.sizeBytes)}${plain}\n`;
  });
  const problems = (objects?.problems ?? []).map((problem) => `  ${problem}\n`);
  return [
    head,
    ...(parts.length > 0 ? ['Parts:\n', ...parts] : []),
    ...(problems.length > 0 ? ['Problems:\n', ...problems] : []),
  ].join('');
}

function textsOf(texts: Readonly<Record<string, string>> | undefined): string | undefined {
  const pairs = Object.entries(texts ?? {}).map(([key, value]) => `${key}=${value}`);
  return pairs.length > 0 ? pairs.join(', ') : undefined;
}

/** Only what an operator said of this backup while it ran. */
function limitOf({ status }: ListedBackup): string | undefined {
  const limit = (status as Partial<RunningBackupStatus>).control?.maxBytesPerSecond;
  if (limit === undefined) return undefined;
  return limit === null ? 'none' : `${formatBytes(limit)}/s`;
}

function endOf({ status }: ListedBackup): string | undefined {
  if (status.stoppedAt === undefined) return undefined;
  if (status.startedAt === undefined) return status.stoppedAt;
  return `${status.stoppedAt} (after ${formatDuration(Date.parse(status.stoppedAt) - Date.parse(status.startedAt))})`;
}

function checksumsOf({ pageChecksumFailures }: BackupRecord): string {
  if (pageChecksumFailures.length === 0) return 'no bad page was found';
  const pages = pageChecksumFailures.reduce((sum, { blocks }) => sum + blocks.length, 0);
  const files = pageChecksumFailures
    .slice(0, 3)
    .map(({ path, blocks }) => `${path} block ${blocks.slice(0, 3).join(', ')}`);
  return `${pages} bad ${pages === 1 ? 'page' : 'pages'}: ${files.join('; ')}${pageChecksumFailures.length > 3 ? '; …' : ''}`;
}

/** Which stock tools can restore it, by the codecs of its parts. */
function readableBy({ parts }: BackupObjects): string {
  const codecs = new Set(parts.map(({ codec }) => codec));
  if (codecs.has('zstd'))
    return 'walkeep; barman-cloud from 3.20 on (not by CloudNativePG, which has an older one)';
  if (codecs.has('lz4')) return 'walkeep, CloudNativePG, barman-cloud from 3.18 on';
  return 'walkeep, CloudNativePG, barman-cloud';
}
