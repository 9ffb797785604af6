import type { ArchiveReport } from '../activities/wal-archiving.ts';
import { bytesText, factsTable } from './page.ts';

/** Archiving as the Web UI shows it under "current details". */
export function archivingPage(
  request: { readonly cluster: string; readonly namespace: string },
  report: ArchiveReport | undefined,
  trouble: string | undefined,
): string {
  const title = trouble ? 'not observed' : (report?.health ?? 'waiting for the first report');
  return [
    `### WAL archiving of ${request.namespace}/${request.cluster}: ${title}`,
    factsTable([
      ['problem', trouble],
      ['instance', report && `${report.instance} (${report.role})`],
      ['last archived', report?.lastArchived],
      ['at', report?.lastArchivedAt],
      ['archived since the worker started', report?.archivedCount],
      ['failures since the worker started', report?.failedCount],
      ['last error', report?.lastError],
      ['waiting', report && `${report.waitingFiles} files, ${bytesText(report.waitingBytes)}`],
      ['reported', report?.at],
    ]),
    'The newest numbers are in the heartbeats of the pending activity `archive`. Archiving goes on without Temporal.',
  ].join('\n');
}
