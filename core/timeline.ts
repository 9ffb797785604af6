import { BackupError } from './errors.ts';
import { formatLsn, parseLsn, type Lsn } from './lsn.ts';

/** One line of a `.history` file: the timeline `timeline` was left at `switchedAt`. */
export interface TimelineSwitch {
  readonly timeline: number;
  readonly switchedAt: Lsn;
}

/** The name of a timeline's history file, such as `00000002.history`. */
export function historyFileName(timeline: number): string {
  return `${timeline.toString(16).toUpperCase().padStart(8, '0')}.history`;
}

/**
 * The ancestors in a `.history` file, oldest first.
 *
 * @throws BackupError `format-invalid` for lines PostgreSQL would not write
 * @see PostgreSQL `src/backend/access/transam/timeline.c`, `readTimeLineHistory`
 */
export function parseHistory(text: string): TimelineSwitch[] {
  const switches: TimelineSwitch[] = [];
  for (const line of text.split('\n')) {
    const content = line.replace(/#.*$/, '').trim();
    if (content === '') continue;
    const match = /^(\d+)\s+([0-9A-Fa-f]+\/[0-9A-Fa-f]+)/.exec(content);
    if (!match) throw new BackupError('format-invalid', `not a line of a timeline history: "${line}"`);
    const timeline = Number(match[1]);
    const last = switches.at(-1);
    if (last && timeline <= last.timeline) {
      throw new BackupError(
        'format-invalid',
        `timelines must grow in a history: ${last.timeline}, then ${timeline}`,
      );
    }
    switches.push({ timeline, switchedAt: parseLsn(match[2] as string) });
  }
  return switches;
}

/** Where each timeline begins on the way to one of them, oldest first. */
export interface TimelineStep {
  readonly timeline: number;
  /** Where it branches off its parent; `0/0` for the first. */
  readonly beginsAt: Lsn;
  /** Where the way leaves it; `undefined` for the last. */
  readonly endsAt?: Lsn;
}

/** The way from the first timeline to `timeline`, from the switches of its history (none for timeline 1). */
export function timelinePath(timeline: number, switches: readonly TimelineSwitch[]): TimelineStep[] {
  const path: TimelineStep[] = [];
  let beginsAt = 0n as Lsn;
  for (const step of switches) {
    path.push({ timeline: step.timeline, beginsAt, endsAt: step.switchedAt });
    beginsAt = step.switchedAt;
  }
  path.push({ timeline, beginsAt });
  return path;
}

/** One line for people: `1 to 0/5000000, then 2`. */
export function describePath(path: readonly TimelineStep[]): string {
  return path
    .map((step) =>
      step.endsAt === undefined ? `${step.timeline}` : `${step.timeline} to ${formatLsn(step.endsAt)}`,
    )
    .join(', then ');
}
