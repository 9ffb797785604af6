import type { BackupStatus } from '../core/backup-status.ts';
import type { SlotNews } from './interface.ts';
import { factsTable } from './page.ts';

/** A run of a schedule as the Web UI shows it under "current details". */
export function scheduledBackupPage(
  request: {
    readonly series: string;
    readonly scheduledBackup?: string | undefined;
    readonly cluster?: string | undefined;
    readonly namespace: string;
    readonly slot: string;
    readonly immediate: boolean;
  },
  run: {
    readonly news?: SlotNews;
    readonly missed: readonly SlotNews[];
    readonly status?: BackupStatus;
    readonly waitingFor?: string;
    readonly trouble?: string;
  },
): string {
  const { news, status, missed } = run;
  const title = news ? TITLES[news.outcome] : 'deciding';
  return [
    `### ${request.series}, ${request.slot}: ${title}`,
    factsTable([
      ['ScheduledBackup', request.scheduledBackup],
      ['cluster', request.cluster && `${request.namespace}/${request.cluster}`],
      [request.immediate ? 'asked for by immediate: true at' : 'due at', request.slot],
      ['because', news?.reason],
      [news?.outcome === 'skipped' ? 'Backup that is in its way' : 'Backup', news?.backupName],
      ['phase of the Backup', status?.phase],
      ['backup id', status?.backupId],
      ['waiting for', run.waitingFor],
      ['last failed with', run.trouble],
      ['slots before it that nothing began', missed.length > 0 ? missed.length : undefined],
    ]),
    ...(news?.outcome === 'ran' && news.backupName !== undefined
      ? ['', `The Backup is the workflow \`backup/${request.namespace}/${news.backupName}\`.`]
      : []),
  ].join('\n');
}

const TITLES: Readonly<Record<SlotNews['outcome'], string>> = {
  ran: 'backup begun',
  skipped: 'skipped',
  missed: 'missed',
};
