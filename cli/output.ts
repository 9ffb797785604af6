import { BackupError, messageOf } from '../core/errors.ts';
import { EXIT, exitCodeOf } from './exit-codes.ts';

/** Whether a person waits at the other end of standard error: progress bars are drawn only then. */
export function isInteractive(): boolean {
  return process.stderr.isTTY && process.env['CI'] === undefined;
}

/** Says on standard error what happened and what to do, in one line, and which exit code fits. */
export function reportFailure(error: unknown): number {
  if (error instanceof BackupError) {
    process.stderr.write(`walkeep: ${oneLine(error.message)}; ${oneLine(error.hint)}\n`);
    return exitCodeOf(error.code);
  }
  process.stderr.write(`walkeep: ${oneLine(messageOf(error))}\n`);
  if (process.env['WALKEEP_DEBUG'] && error instanceof Error) process.stderr.write(`${error.stack ?? ''}\n`);
  return EXIT.failed;
}

/** Notes for people go to standard error, so that standard output stays a table or JSON. */
export function note(text: string): void {
  process.stderr.write(`${printable(text)}\n`);
}

/**
 * `text` for a terminal. Names and errors of a repository were written by whoever may write there: an escape in them
 * would rename the window, hide a line, or type for the reader. Lines stay lines.
 */
export function printable(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\p{Cs}]/gu, (character) => (character === '\n' ? '\n' : '\ufffd'));
}

function oneLine(text: string): string {
  return printable(text.replaceAll(/\s*\n\s*/g, ' ').trim());
}

/**
 * A table like kubectl's: upper-case headers, columns as wide as needed, three spaces between, nothing after the
 * last. Empty cells stay empty.
 */
export function formatTable(headers: readonly string[], given: readonly (readonly string[])[]): string {
  const rows = given.map((cells) => cells.map(oneLine));
  const widths = headers.map((header, column) =>
    Math.max(header.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => (column === headers.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
      .join('   ')
      .trimEnd();
  return [headers, ...rows].map((cells) => `${line(cells)}\n`).join('');
}

/** How long ago, as kubectl prints ages: `45s`, `12m`, `3h`, `5d`. */
export function formatAge(from: Date, now: Date): string {
  const seconds = Math.max(0, Math.round((now.getTime() - from.getTime()) / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 2 * 86_400) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

/** Bytes for people, in binary units: `1.4 GiB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? ''}`;
}

/** A duration for people: `850 ms`, `12 s`, `3 min 20 s`, `2 h 5 min`. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}
