import { Command } from 'commander';
import { formatDuration } from '../core/duration.ts';
import { messageOf } from '../core/errors.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { ownReference } from '../manifests/object-store-references.ts';
import { readHeld } from '../operations/declared.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import { readProtection, type Protection } from '../operations/protection.ts';
import { weaknessesOf } from '../repository/store-record.ts';
import type { ClusterStatus } from '../workflows/interface.ts';
import { findCluster, withHost, type Host } from './host.ts';
import { namespaceOption, outputOption, parseClusterArgument, stateOption } from './options.ts';
import { readKeeperStatus } from './orchestration.ts';
import { formatAge, formatBytes, note, printable } from './output.ts';

interface StatusOptions {
  readonly namespace: string;
  readonly state?: string;
  readonly output?: 'json';
}

/** `walkeep status CLUSTER` */
export function statusCommand(): Command {
  return new Command('status')
    .summary('what protects a cluster at this moment')
    .description('Reads the repository, and asks the keeper in Temporal; either may be away.')
    .argument('<cluster>', 'NAME or NAMESPACE/NAME')
    .addOption(namespaceOption())
    .addOption(stateOption())
    .addOption(outputOption(['json']))
    .addHelpText('after', '\nExamples:\n  walkeep status production-postgres\n')
    .action(async (argument: string, options: StatusOptions) => {
      const reference = parseClusterArgument(argument);
      const namespace = reference.namespace ?? options.namespace;
      await withHost(options, async (host) => {
        const { manifest, revision } = await findCluster(host, namespace, reference.cluster);
        const [protection, keeper, { problem }] = await Promise.all([
          protectionOf(host, manifest),
          readKeeperStatus(host, namespace, reference.cluster),
          readHeld(host.state, namespace, reference.cluster),
        ]);
        if (problem !== undefined)
          note(`walkeep: ${problem}; apply it again: until then backups of this host go by the defaults`);
        process.stdout.write(
          options.output === 'json'
            ? `${JSON.stringify(asJson(manifest, revision, protection, keeper), undefined, 2)}\n`
            : printable(formatStatus(manifest, revision, protection, keeper, new Date())),
        );
      });
    });
}

type Read = { readonly protection: Protection } | { readonly error: string };

async function protectionOf(host: Host, manifest: ClusterManifest): Promise<Read> {
  try {
    const repository = await openClusterRepository(manifest, host.resolver);
    try {
      return { protection: await readProtection(repository, AbortSignal.timeout(120_000)) };
    } finally {
      await repository.close();
    }
  } catch (error) {
    return { error: messageOf(error) };
  }
}

function asJson(
  manifest: ClusterManifest,
  revision: number,
  read: Read,
  keeper: ClusterStatus | undefined,
): unknown {
  const base = {
    cluster: manifest.metadata.name,
    namespace: manifest.metadata.namespace,
    revision,
    ...(keeper && { keeper }),
  };
  if ('error' in read) return { ...base, repositoryError: read.error };
  const { protection } = read;
  return {
    ...base,
    backups: protection.usable.length,
    firstRecoverabilityPoint: protection.usable[0]?.endTime?.toISOString(),
    lastSuccessfulBackup: protection.usable.at(-1)?.endTime?.toISOString(),
    newestSegment: protection.newestSegment && {
      name: protection.newestSegment.name,
      storedAt: protection.newestSegment.storedAt.toISOString(),
    },
    segments: protection.segments,
    walBytes: protection.walBytes,
    gaps: protection.gaps,
    systemId: protection.owner?.systemId,
    store: protection.store,
  };
}

function formatStatus(
  manifest: ClusterManifest,
  revision: number,
  read: Read,
  keeper: ClusterStatus | undefined,
  now: Date,
): string {
  const { name, namespace } = manifest.metadata;
  const store = manifest.spec.backup?.barmanObjectStore;
  const reference = ownReference(manifest);
  const lines: [string, string][] = [
    ['Cluster', `${namespace}/${name} (manifest revision ${revision})`],
    [
      'Repository',
      store ? `${store.destinationPath} (server ${store.serverName ?? name})` : 'none in the manifest',
    ],
    ...(reference ? ([['ObjectStore', reference.objectStore]] as [string, string][]) : []),
    ...('error' in read
      ? ([['', `could not be read: ${read.error}`]] as [string, string][])
      : repositoryLines(read.protection, now)),
    ...keeperLines(keeper, now),
  ];
  const width = Math.max(...lines.map(([label]) => label.length)) + 2;
  const table = lines
    .map(([label, value]) => `${(label ? `${label}:` : '').padEnd(width)}${value}\n`)
    .join('');
  const problems = (keeper?.problems ?? []).map((problem) => `  ${problem}\n`);
  return problems.length > 0 ? `${table}\nNeeds you:\n${problems.join('')}` : table;
}

function repositoryLines(protection: Protection, now: Date): [string, string][] {
  const { usable, newestSegment, gaps, segments, walBytes, entries, store } = protection;
  const first = usable[0];
  const last = usable.at(-1);
  const unusable = entries.length - usable.length;
  const lines: [string, string][] = [
    [
      'Backups',
      last?.endTime
        ? `${usable.length} that can be restored; the newest, ${last.backupId}, ended ${formatAge(last.endTime, now)} ago`
        : 'none that can be restored',
    ],
  ];
  if (unusable > 0) lines.push(['', `${unusable} more that can't be (see walkeep get backups)`]);
  lines.push([
    'WAL archive',
    newestSegment
      ? `${segments} segments, ${formatBytes(walBytes)}; the newest, ${newestSegment.name}, stored ${formatAge(newestSegment.storedAt, now)} ago`
      : 'empty',
  ]);
  if (first?.endTime) {
    const gapText =
      gaps.length === 0
        ? 'without a gap to the newest segment'
        : `with ${gaps.length} ${gaps.length === 1 ? 'gap' : 'gaps'}`;
    lines.push(['Recoverable', `from ${first.endTime.toISOString()}, ${gapText}`]);
  }
  const weak = store ? weaknessesOf(store) : [];
  for (const [index, text] of weak.entries()) lines.push([index === 0 ? 'Weak store' : '', text]);
  for (const gap of gaps) {
    lines.push([
      'Gap',
      `timeline ${gap.timeline}: ${gap.firstMissing} to ${gap.lastMissing} (${gap.count} missing)`,
    ]);
  }
  return lines;
}

/** What the keeper was told. Nothing of it is newer than its last report, and the age of that is said. */
export function keeperLines(keeper: ClusterStatus | undefined, now: Date): [string, string][] {
  if (!keeper) return [['Keeper', 'does not answer: is Temporal up, and a worker running?']];
  const instances = keeper.instances.map(
    ({ instance, role, seenAt }) => `${instance} (${role}, heard of ${formatAge(new Date(seenAt), now)} ago)`,
  );
  const archiving = keeper.archiving;
  const running = keeper.backups.filter(({ phase }) => phase !== 'completed' && phase !== 'failed');
  return [
    ['Instances', instances.length > 0 ? instances.join(', ') : 'none has reported yet'],
    [
      'Archiving',
      archiving
        ? `${archiving.health} on ${archiving.instance}${asOf(archiving.at, now)}; ${archiving.waitingFiles} ${archiving.waitingFiles === 1 ? 'file waits' : 'files wait'}${archiving.lastError === undefined ? '' : `; last failure: ${archiving.lastError}`}`
        : 'no report yet',
    ],
    ...running.map(({ name, phase }): [string, string] => ['Backup', `${name}: ${phase}`]),
    ...(keeper.rpoSeconds === undefined
      ? []
      : ([['Would lose', lossText(keeper, keeper.rpoSeconds, now)]] as [string, string][])),
    ['Verified', verificationText(keeper, now)],
    ...(keeper.lastSweep ? [['Sweep', sweepText(keeper.lastSweep, now)] as [string, string]] : []),
    ...(keeper.nextRuns ?? [])
      .slice(0, 4)
      .map(({ what, at }, index): [string, string] => [index === 0 ? 'Next' : '', `${at}  ${what}`]),
  ];
}

/** Reports are rare where nothing changes: one that is minutes old is no alarm, and no news either. */
const FRESH_MS = 60_000;

function asOf(at: string | undefined, now: Date): string {
  if (at === undefined || now.getTime() - Date.parse(at) < FRESH_MS) return '';
  return `, as of ${formatAge(new Date(at), now)} ago`;
}

function lossText({ instances, rpoAt }: ClusterStatus, rpoSeconds: number, now: Date): string {
  const loss = formatSeconds(rpoSeconds);
  const age = asOf(rpoAt, now);
  if (instances.length > 0 && instances.every(({ role }) => role === 'absent'))
    return `not known: no instance has a data directory; it was ${loss}${age}`;
  return age === '' ? `${loss}, if the server were lost now` : `${loss}${age}, if the server was lost then`;
}

function verificationText({ lastVerification: last }: ClusterStatus, now: Date): string {
  if (!last) return 'no backup has been proved by a restore yet (walkeep verify, or a ScheduledVerification)';
  const age = `${formatAge(new Date(last.endedAt), now)} ago`;
  const what = last.backupId === undefined ? '' : ` ${last.backupId}`;
  if (last.result !== 'verified') return `${last.result}${what}, ${age}: ${last.error ?? 'see its report'}`;
  const rto = last.rtoSeconds === undefined ? '' : `, recovered in ${formatSeconds(last.rtoSeconds)}`;
  return `${last.backupId ?? 'a backup'}, ${age}${rto}`;
}

function sweepText({ at, refused, counts }: NonNullable<ClusterStatus['lastSweep']>, now: Date): string {
  const age = `${formatAge(new Date(at), now)} ago`;
  if (refused !== undefined) return `${age}, deleted nothing: ${refused}`;
  return `${age}: ${counts.deletedBackups} deleted, ${counts.marked + counts.waiting} marked, ${counts.kept} kept`;
}

function formatSeconds(seconds: number): string {
  return formatDuration(Math.round(seconds) * 1000);
}
