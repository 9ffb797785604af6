import type { ClusterStatus } from './interface.ts';
import type { KeeperState } from './keeper-state.ts';
import { bytesText, factsTable, table } from './page.ts';

/** A cluster as the Web UI shows it under "current details". */
export function clusterPage(status: ClusterStatus, state: KeeperState): string {
  const { archiving } = status;
  const store = state.manifest.spec.backup?.barmanObjectStore;
  return [
    `### ${status.namespace}/${status.cluster}`,
    status.problems.length === 0
      ? 'Nothing needs attention.'
      : status.problems.map((one) => `- **${one}**`).join('\n'),
    factsTable([
      ['manifest', `revision ${status.revision}`],
      ['repository', store && `${store.destinationPath} (${store.serverName ?? status.cluster})`],
      ['last good backup', status.lastSuccessfulBackup],
      ['last failed backup', status.lastFailedBackup],
      ['archiving', archiving && `${archiving.health} on ${archiving.instance}`],
      [
        'last archived',
        archiving?.lastArchived && `${archiving.lastArchived} at ${archiving.lastArchivedAt ?? '?'}`,
      ],
      ['waiting WAL', archiving && `${archiving.waitingFiles} files, ${bytesText(archiving.waitingBytes)}`],
    ]),
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
