import { formatBytes, formatDuration, isInteractive } from './output.ts';

/** How far something has come. `totalBytes` of 0 means that the end is not known yet. */
export interface ProgressReport {
  readonly phase: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** One line of a progress bar: phase, bar, share, rate and time left. Pure, so that a test can read it. */
export function progressLine(report: ProgressReport, elapsedMs: number, width = 24): string {
  const rate = elapsedMs > 0 ? (report.doneBytes / elapsedMs) * 1000 : 0;
  if (report.totalBytes <= 0) return `${report.phase}  ${formatBytes(report.doneBytes)}`;
  const share = Math.min(1, report.doneBytes / report.totalBytes);
  const filled = Math.round(share * width);
  const left = rate > 0 ? ((report.totalBytes - report.doneBytes) / rate) * 1000 : undefined;
  const eta = left === undefined || share >= 1 ? '' : `, ${formatDuration(Math.max(0, left))} left`;
  return (
    `${report.phase}  [${'#'.repeat(filled)}${'.'.repeat(width - filled)}] ${String(Math.floor(share * 100)).padStart(3)} %  ` +
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
