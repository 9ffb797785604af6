import type { Client } from '@temporalio/client';
import type { Payload } from '@temporalio/common';
import { formatBytes, formatDuration, isInteractive } from './output.ts';

/** How far something has come. `totalBytes` of 0 means that the end is not known yet. */
export interface ProgressReport {
  readonly phase: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Smoothed, as the worker measured it. */
  readonly bytesPerSecond?: number;
  /** RFC 3339. */
  readonly eta?: string;
}

/** What people are told a phase is; a spread checkpoint alone may take minutes. */
const PHASES: Readonly<Record<string, string>> = {
  starting: "waiting for PostgreSQL's checkpoint",
  stopping: 'ending backup mode',
  'waiting-for-wal': 'waiting for the last WAL',
  verifying: 'looking again at what was stored',
  replaying: 'PostgreSQL replays WAL',
  manifest: 'comparing every file with its manifest',
  checking: 'asking the restored database',
  pages: 'reading the checksum of every page',
  cleaning: 'removing the copy',
};

/** What a phase is, for people. */
export function phaseText(phase: string): string {
  return PHASES[phase] ?? phase;
}

/** `12.3 GiB of 40 GiB, 31 %, 210 MiB/s, about 2 min left`; empty while nothing is known. @param now ms since 1970 */
export function progressText(report: ProgressReport, now: number): string {
  const { doneBytes, totalBytes, bytesPerSecond, eta } = report;
  if (totalBytes <= 0) return doneBytes > 0 ? bytesText(doneBytes) : '';
  const share = Math.min(1, doneBytes / totalBytes);
  const left = eta === undefined ? Number.NaN : Date.parse(eta) - now;
  return [
    `${bytesText(doneBytes)} of ${bytesText(totalBytes)}`,
    `${Math.floor(share * 100)} %`,
    ...(bytesPerSecond === undefined ? [] : [`${bytesText(bytesPerSecond)}/s`]),
    ...(share < 1 && left >= 0 ? [`about ${roughly(left)} left`] : []),
  ].join(', ');
}

function bytesText(bytes: number): string {
  return formatBytes(bytes).replace('.0 ', ' ');
}

/** Nobody knows it to the second. */
function roughly(ms: number): string {
  const minutes = Math.round(ms / 60_000);
  if (minutes < 2) return formatDuration(Math.max(1_000, Math.round(ms / 5_000) * 5_000));
  if (minutes < 120) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** One line of a progress bar: phase, bar, and what `progressText` says. Pure, so that a test can read it. */
export function progressLine(report: ProgressReport, now: number, width = 24): string {
  const phase = phaseText(report.phase);
  const text = progressText(report, now);
  if (report.totalBytes <= 0) return text ? `${phase}  ${text}` : phase;
  const filled = Math.round(Math.min(1, report.doneBytes / report.totalBytes) * width);
  return `${phase}  [${'#'.repeat(filled)}${'.'.repeat(width - filled)}] ${text}`;
}

/** Draws progress where a person waits, and is silent where a program does. */
export function createProgressBar(): { update(report: ProgressReport): void; end(): void } {
  if (!isInteractive()) return { update: () => {}, end: () => {} };
  let pace: { at: number; doneBytes: number; bytesPerSecond?: number } | undefined;
  let drawn = false;
  return {
    update(report) {
      process.stderr.write(`\r\x1b[2K${progressLine(measured(report), Date.now())}`);
      drawn = true;
    },
    end() {
      if (drawn) process.stderr.write('\r\x1b[2K');
      drawn = false;
    },
  };

  /** Whoever reports without a rate, such as a restore, is measured here, from the first look on. */
  function measured(report: ProgressReport): ProgressReport {
    if (report.bytesPerSecond !== undefined || report.totalBytes <= 0) return report;
    pace ??= { at: Date.now(), doneBytes: report.doneBytes };
    const [ms, bytes] = [Date.now() - pace.at, report.doneBytes - pace.doneBytes];
    if (ms < 1_000 || bytes <= 0) return report;
    const bytesPerSecond = (bytes / ms) * 1000;
    const leftMs = ((report.totalBytes - report.doneBytes) / bytesPerSecond) * 1000;
    return { ...report, bytesPerSecond, eta: new Date(Date.now() + Math.min(leftMs, 1e12)).toISOString() };
  }
}

/** Of `WorkflowHandle.describe`, what is needed here. */
interface Described {
  readonly raw: {
    readonly pendingActivities?:
      readonly { readonly heartbeatDetails?: { readonly payloads?: Payload[] | null } | null }[] | null;
  };
}

/** The newest progress that an activity of a run has reported by its heartbeats, which no query shows. */
export async function progressOf(client: Client, { raw }: Described): Promise<ProgressReport | undefined> {
  const { payloadConverter, payloadCodecs } = client.options.loadedDataConverter;
  for (const { heartbeatDetails } of raw.pendingActivities ?? []) {
    let payloads = heartbeatDetails?.payloads ?? [];
    for (const codec of payloadCodecs.toReversed()) payloads = await codec.decode(payloads);
    const [payload] = payloads;
    if (!payload) continue;
    const details: unknown = payloadConverter.fromPayload(payload);
    const progress =
      typeof details === 'object' && details !== null && 'progress' in details ? details.progress : details;
    if (isProgress(progress)) return progress;
  }
  return undefined;
}

function isProgress(value: unknown): value is ProgressReport {
  return (
    typeof value === 'object' &&
    value !== null &&
    'phase' in value &&
    typeof value.phase === 'string' &&
    'doneBytes' in value &&
    typeof value.doneBytes === 'number' &&
    'totalBytes' in value &&
    typeof value.totalBytes === 'number' &&
    (!('bytesPerSecond' in value) || typeof value.bytesPerSecond === 'number') &&
    (!('eta' in value) || typeof value.eta === 'string')
  );
}
