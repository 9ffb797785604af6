import { formatBytes, formatDuration, isInteractive } from './output.ts';

/** How far something has come. `totalBytes` of 0 means that the end is not known yet. */
export interface ProgressReport {
  readonly phase: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** What people are told a phase is; a spread checkpoint alone may take minutes. */
const PHASES: Readonly<Record<string, string>> = {
  starting: "waiting for PostgreSQL's checkpoint",
  stopping: 'ending backup mode',
  'waiting-for-wal': 'waiting for the last WAL',
  verifying: 'looking again at what was stored',
};

/** One line of a progress bar: phase, bar, share, rate and time left. Pure, so that a test can read it. */
export function progressLine(report: ProgressReport, elapsedMs: number, width = 24): string {
  const phase = PHASES[report.phase] ?? report.phase;
  const rate = elapsedMs > 0 ? (report.doneBytes / elapsedMs) * 1000 : 0;
  if (report.totalBytes <= 0)
    return report.doneBytes > 0 ? `${phase}  ${formatBytes(report.doneBytes)}` : phase;
  const share = Math.min(1, report.doneBytes / report.totalBytes);
  const filled = Math.round(share * width);
  const left = rate > 0 ? ((report.totalBytes - report.doneBytes) / rate) * 1000 : undefined;
  const eta = left === undefined || share >= 1 ? '' : `, ${formatDuration(Math.max(0, left))} left`;
  return (
    `${phase}  [${'#'.repeat(filled)}${'.'.repeat(width - filled)}] ${String(Math.floor(share * 100)).padStart(3)} %  ` +
    `${formatBytes(report.doneBytes)} of ${formatBytes(report.totalBytes)}, ${formatBytes(rate)}/s${eta}`
  );
}

/** Draws progress where a person waits, and is silent where a program does. */
export function createProgressBar(): { update(report: ProgressReport): void; end(): void } {
  if (!isInteractive()) return { update: () => {}, end: () => {} };
  const started = performance.now();
  let drawn = false;
  return {
    update(report) {
      process.stderr.write(`\r\x1b[2K${progressLine(report, performance.now() - started)}`);
      drawn = true;
    },
    end() {
      if (drawn) process.stderr.write('\r\x1b[2K');
      drawn = false;
    },
  };
}
