import type { ClusterStatus } from './interface.ts';
import type { KeeperState } from './keeper-state.ts';
import { bytesText, factsTable, secondsText, table } from './page.ts';

/** A cluster as the Web UI shows it under "current details". */
export function clusterPage(status: ClusterStatus, state: KeeperState): string {
  return [
    `### ${status.namespace}/${status.cluster}`,
    status.problems.length === 0
      ? 'Nothing needs attention.'
      : status.problems.map((one) => `- **${one}**`).join('\n'),
    facts(status, state),
    ...intervals(status),
    ...schedules(state),
    ...nextRuns(status),
    '#### Instances',
    table(
      ['instance', 'role', 'host', 'manifest', 'seen'],
      status.instances.map((one) => [
        one.instance,
        one.role,
        one.host,
        one.revision === undefined ? 'none' : `revision ${one.revision}`,
        one.seenAt,
      ]),
    ),
    '#### Backups',
    table(
      ['name', 'phase', 'id', 'stopped', 'error'],
      status.backups.slice(0, 10).map((one) => [one.name, one.phase, one.backupId, one.stoppedAt, one.error]),
    ),
  ].join('\n\n');
}

function facts(status: ClusterStatus, state: KeeperState): string {
  const { archiving, lastVerification: proof, lastSweep: sweep } = status;
  const store = state.manifest.spec.backup?.barmanObjectStore;
  return factsTable([
    ['manifest', `revision ${status.revision}`],
    ['repository', store && `${store.destinationPath} (${store.serverName ?? status.cluster})`],
    ['retention', state.manifest.spec.backup?.retentionPolicy],
    ['policy', state.policy?.metadata.name],
    ['last good backup', status.lastSuccessfulBackup],
    ['last failed backup', status.lastFailedBackup],
    [
      'newest restorable moment',
      status.rpoSeconds === undefined ? undefined : `${secondsText(status.rpoSeconds)} ago`,
    ],
    [
      'last verification',
      proof && `${proof.result}, ${proof.backupId ?? 'no backup'}, ${proof.endedAt}${rto(proof.rtoSeconds)}`,
    ],
    [
      'last sweep',
      sweep &&
        (sweep.refused === undefined
          ? `${sweep.at}: ${sweep.counts.deletedBackups} deleted, ${sweep.counts.waiting + sweep.counts.marked} marked, ${sweep.counts.kept} kept`
          : `${sweep.at}: nothing, ${sweep.refused}`),
    ],
    ['archiving', archiving && `${archiving.health} on ${archiving.instance} (as of ${archiving.at})`],
    [
      'last archived',
      archiving?.lastArchived && `${archiving.lastArchived} at ${archiving.lastArchivedAt ?? '?'}`,
    ],
    ['waiting WAL', archiving && `${archiving.waitingFiles} files, ${bytesText(archiving.waitingBytes)}`],
  ]);
}

function rto(seconds: number | undefined): string {
  return seconds === undefined ? '' : `, recovered in ${secondsText(seconds)}`;
}

function intervals({ audit }: ClusterStatus): string[] {
  if (!audit || audit.intervals.length === 0) return [];
  const rows = audit.intervals
    .toReversed()
    .map((one) => [
      inMinutes(one.fromTime),
      inMinutes(one.toTime),
      String(one.timeline),
      one.backupId,
      one.lastSegment,
    ]);
  return [
    `#### Recoverable (as of ${inMinutes(audit.at)}, UTC)`,
    table(['from', 'to', 'timeline', 'backup', 'last segment'], rows),
  ];
}

/** `2026-11-25 06:30`: the page has narrow columns. */
function inMinutes(time: string | undefined): string | undefined {
  return time?.slice(0, 16).replace('T', ' ');
}

function schedules(state: KeeperState): string[] {
  const declared = [...(state.schedules ?? []), ...(state.verifications ?? [])];
  if (declared.length === 0) return [];
  const rows = declared.map(({ kind, metadata, spec }) => {
    const last = state.agenda?.schedules?.[metadata.name]?.last;
    return [
      kind,
      metadata.name,
      spec.suspend ? `${spec.schedule} (suspended)` : spec.schedule,
      last && `${last.outcome} ${last.slot}`,
    ];
  });
  return ['#### Schedules', table(['kind', 'name', 'schedule', 'last'], rows)];
}

function nextRuns({ nextRuns: runs = [] }: ClusterStatus): string[] {
  if (runs.length === 0) return [];
  return [
    '#### Next',
    table(
      ['what', 'when'],
      runs.slice(0, 6).map(({ what, at }) => [what, at]),
    ),
  ];
}
