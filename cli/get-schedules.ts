import { Command } from 'commander';
import { stringify } from 'yaml';
import { isBackupError, messageOf } from '../core/errors.ts';
import { nextSlots, rfc3339, type SlotTimes } from '../core/slots.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { scheduleOf } from '../manifests/schedule.ts';
import type { ScheduledBackupManifest } from '../manifests/scheduled-backup.ts';
import { readHeld } from '../operations/declared.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import type { Repository } from '../repository/repository.ts';
import { readSeries, readSlot, slotsBefore, type SlotRecord } from '../repository/slots.ts';
import { clusterWorkflowId, desireQuery } from '../workflows/interface.ts';
import { exitCodeFor } from './exit-codes.ts';
import { listClusters, withHost, type Host } from './host.ts';
import { namespaceOption, outputOption, stateOption } from './options.ts';
import { formatAge, formatTable, note } from './output.ts';

interface GetSchedulesOptions {
  readonly namespace: string;
  readonly output?: 'json' | 'yaml' | 'wide' | 'name';
  readonly state?: string;
}

/** A ScheduledBackup with what is known of its slots. */
interface ListedSchedule {
  readonly manifest: ScheduledBackupManifest;
  /** RFC 3339. */
  readonly next?: string;
  readonly last?: SlotRecord;
}

const READ_MS = 60_000;
const ASK_MS = 4_000;
/** Older outcomes say little about a schedule that goes on. */
const LOOK_BACK_MS = 400 * 86_400_000;

/** `walkeep get scheduledbackups` */
export function getScheduledBackups(): Command {
  return new Command('scheduledbackups')
    .alias('scheduledbackup')
    .summary('when backups run, and what became of the last due time')
    .description(
      'Lists what was declared (by the keepers, or as this host has it) and what the repositories record.',
    )
    .argument('[name]', 'only this one')
    .addOption(namespaceOption())
    .addOption(outputOption(['json', 'yaml', 'wide', 'name']))
    .addOption(stateOption())
    .action(async (name: string | undefined, options: GetSchedulesOptions) => {
      await withHost(options, async (host) => {
        const all = await readAll(host, options.namespace);
        const found = all.filter(({ manifest }) => name === undefined || manifest.metadata.name === name);
        const isTable = options.output === undefined || options.output === 'wide';
        if (found.length === 0 && isTable) {
          note(`No ScheduledBackups found in namespace ${options.namespace}.`);
          return;
        }
        process.stdout.write(format(found, options.output));
      });
    });
}

async function readAll(host: Host, namespace: string): Promise<ListedSchedule[]> {
  const clusters = await listClusters(host, namespace);
  const read = await Promise.all(clusters.map((manifest) => readOf(host, namespace, manifest)));
  return read.flat().toSorted((a, b) => (a.manifest.metadata.name < b.manifest.metadata.name ? -1 : 1));
}

async function readOf(host: Host, namespace: string, cluster: ClusterManifest): Promise<ListedSchedule[]> {
  const schedules = await declaredOf(host, namespace, cluster.metadata.name);
  if (schedules.length === 0) return [];
  let repository: Repository | undefined;
  try {
    if (cluster.spec.backup?.barmanObjectStore)
      repository = await openClusterRepository(cluster, host.resolver);
    const listed: ListedSchedule[] = [];
    for (const manifest of schedules) listed.push(await withSlots(manifest, repository));
    return listed;
  } catch (error) {
    const why = isBackupError(error) ? `${error.message}; ${error.hint}` : messageOf(error);
    note(`walkeep: the slots of ${cluster.metadata.name} are not known: ${why}`);
    // What was declared is shown, and is no success: scripts decide by outcomes.
    process.exitCode = exitCodeFor(error);
    return schedules.map((manifest) => ({ manifest, ...nextOf(manifest, undefined) }));
  } finally {
    await repository?.close();
  }
}

/** The keeper knows best; without it this host's state directory tells what its worker was given. */
async function declaredOf(
  host: Host,
  namespace: string,
  cluster: string,
): Promise<readonly ScheduledBackupManifest[]> {
  try {
    const temporal = await host.temporal();
    const desire = await temporal.call(
      'ask the keeper',
      (client) => client.workflow.getHandle(clusterWorkflowId(namespace, cluster)).query(desireQuery),
      ASK_MS,
    );
    return desire.schedules;
  } catch {
    return (await readHeld(host.state, namespace, cluster)).schedules;
  }
}

async function withSlots(
  manifest: ScheduledBackupManifest,
  repository: Repository | undefined,
): Promise<ListedSchedule> {
  if (!repository) return { manifest, ...nextOf(manifest, undefined) };
  const { name } = manifest.metadata;
  const signal = AbortSignal.timeout(READ_MS);
  const series = await readSeries(repository, name, signal);
  const last =
    (await newestOf(repository, name, signal)) ?? (await readSlot(repository, name, 'immediate', signal));
  const anchor = series && new Date(series.anchor);
  return { manifest, ...nextOf(manifest, anchor), ...(last && { last }) };
}

async function newestOf(
  repository: Repository,
  name: string,
  signal: AbortSignal,
): Promise<SlotRecord | undefined> {
  const now = new Date();
  const notBefore = new Date(now.getTime() - LOOK_BACK_MS);
  for await (const slot of slotsBefore(repository, name, now, notBefore, signal))
    return readSlot(repository, name, slot, signal);
  return undefined;
}

function nextOf(manifest: ScheduledBackupManifest, anchor: Date | undefined): { next?: string } {
  if (manifest.spec.suspend) return {};
  const times: SlotTimes = { ...scheduleOf(manifest), ...(anchor && { anchor }) };
  const [next] = nextSlots(times, new Date(), 1);
  return next ? { next: rfc3339(next) } : {};
}

const HEADERS = ['NAME', 'CLUSTER', 'SCHEDULE', 'SUSPEND', 'NEXT', 'LAST', 'OUTCOME'];

function format(found: readonly ListedSchedule[], output: GetSchedulesOptions['output']): string {
  const items = found.map(({ manifest, next, last }) => ({
    ...manifest,
    status: {
      ...(next !== undefined && { nextScheduleTime: next }),
      ...(last && { lastScheduleTime: last.slot, lastOutcome: last.outcome }),
      ...(last?.backupName !== undefined && { lastBackup: last.backupName }),
      ...(last?.reason !== undefined && { lastReason: last.reason }),
    },
  }));
  switch (output) {
    case 'json':
      return `${JSON.stringify({ apiVersion: 'v1', kind: 'List', items }, undefined, 2)}\n`;
    case 'yaml':
      return stringify({ apiVersion: 'v1', kind: 'List', items });
    case 'name':
      return found
        .map(({ manifest }) => `scheduledbackup.postgresql.cnpg.io/${manifest.metadata.name}\n`)
        .join('');
    case 'wide':
      return formatTable([...HEADERS, 'BACKUP', 'REASON'], found.map(wideCells));
    case undefined:
      return formatTable(HEADERS, found.map(cells));
  }
}

function cells({ manifest, next, last }: ListedSchedule): string[] {
  const { metadata, spec } = manifest;
  return [
    metadata.name,
    spec.cluster.name,
    spec.schedule,
    String(spec.suspend),
    next ?? '',
    last ? `${formatAge(new Date(last.slot), new Date())} ago` : '',
    last?.outcome ?? '',
  ];
}

function wideCells(listed: ListedSchedule): string[] {
  return [...cells(listed), listed.last?.backupName ?? '', listed.last?.reason ?? ''];
}
