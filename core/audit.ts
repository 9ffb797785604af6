/** A stretch of moments every one of which can be restored to. Plain JSON. */
export interface RecoverableInterval {
  /** The path's last timeline. */
  readonly timeline: number;
  /** The backup it begins with; later ones lie inside. */
  readonly backupId: string;
  readonly fromLsn: string;
  readonly toLsn: string;
  /** RFC 3339: the end of the backup. */
  readonly fromTime?: string;
  /** RFC 3339: the newest commit when it was read, or else when the store got the last segment. */
  readonly toTime?: string;
  readonly lastSegment: string;
}

/** WAL that is not there although later WAL is, or that is there and damaged. */
export interface ArchiveDamage {
  readonly kind: 'missing' | 'damaged';
  readonly timeline: number;
  /** A segment, or a history or partial segment by its name. */
  readonly first: string;
  readonly last: string;
  readonly count: number;
  readonly detail?: string;
  /** `repaired`: sent again from `source` · `impossible`: nobody has it any more. */
  readonly repair?: 'repaired' | 'impossible' | 'not-tried';
  /** The instance whose `pg_wal` had it. */
  readonly source?: string;
}

/** What an audit of the archive found. Plain JSON; lists are cut to what a payload may hold. */
export interface AuditReport {
  /** RFC 3339. */
  readonly at: string;
  /** Ascending. */
  readonly intervals: readonly RecoverableInterval[];
  readonly damages: readonly ArchiveDamage[];
  readonly backups: number;
  readonly segments: number;
  readonly walBytes: number;
  /** The newest backup that can be restored. */
  readonly newestBackup?: { readonly backupId: string; readonly endedAt: string };
  /** The newest verification that succeeded. */
  readonly newestVerified?: { readonly id: string; readonly at: string; readonly backupId?: string };
  /** The newest segment in archive order, with the store's time. */
  readonly newestSegment?: { readonly name: string; readonly storedAt: string };
  /** How many segments were read and decoded. */
  readonly segmentsRead: number;
  /** Whether a base backup is needed to have an unbroken window again. */
  readonly needsBackup: boolean;
  readonly warnings: readonly string[];
}

/**
 * What one instance did about damages: consecutive files of one damage with one outcome. `repaired`: sent again, or there by now ·
 * `pending`: it waits to be archived there, so it is no hole · `refused`: the instance has such a file and did not
 * send it, `detail` says why.
 */
export interface WalRepair {
  readonly outcome: 'repaired' | 'pending' | 'refused';
  /** What was wrong before. */
  readonly kind: ArchiveDamage['kind'];
  readonly timeline: number;
  readonly first: string;
  readonly last: string;
  readonly count: number;
  readonly instance: string;
  readonly detail?: string;
}

/** What became of the damages of an audit at all instances that could be asked. */
export interface RepairRound {
  readonly repairs: readonly WalRepair[];
  /** Instances that had to be asked and did not answer, with the reason. */
  readonly unasked: readonly { readonly instance: string; readonly reason: string }[];
}

/** Whether the archive is as it should be, now: what was repaired is. */
export function isWhole({ damages }: Pick<AuditReport, 'damages'>): boolean {
  return damages.every(({ repair }) => repair === 'repaired');
}

/** The damages that nobody has repaired yet. */
export function openDamages(damages: readonly ArchiveDamage[]): ArchiveDamage[] {
  return damages.filter(({ repair }) => repair !== 'repaired');
}

/**
 * The damages of a report after a round of repairs: what was repaired, with its source, and what is still there.
 *
 * @param remaining what an audit after the round found
 */
export function damagesAfter(
  remaining: readonly ArchiveDamage[],
  { repairs, unasked }: RepairRound,
): ArchiveDamage[] {
  const repaired = repairs
    .filter(({ outcome }) => outcome === 'repaired')
    .map(({ kind, timeline, first, last, count, instance }): ArchiveDamage => {
      return { kind, timeline, first, last, count, repair: 'repaired', source: instance };
    });
  // Sent again, and not there or damaged again: then it was not repaired.
  const lasting = repaired.filter((one) => !remaining.some((other) => overlap(one, other)));
  return [...lasting, ...remaining.map((damage) => judged(damage, repairs, unasked))];
}

function judged(
  damage: ArchiveDamage,
  repairs: readonly WalRepair[],
  unasked: RepairRound['unasked'],
): ArchiveDamage {
  const refused = repairs.find((repair) => repair.outcome === 'refused' && overlap(repair, damage));
  const silent = unasked.map(({ instance, reason }) => `${instance} could not be asked: ${reason}`);
  const notes = [
    damage.detail,
    refused && `${refused.instance}: ${refused.detail ?? 'it was not sent'}`,
    ...silent,
  ];
  const detail = notes.filter((note) => note !== undefined && note !== '').join('; ');
  return {
    ...damage,
    ...(detail !== '' && { detail: detail.slice(0, 500) }),
    repair: refused || silent.length > 0 ? 'not-tried' : 'impossible',
  };
}

type Span = Pick<ArchiveDamage, 'timeline' | 'first' | 'last'>;

/** Names of one kind of file compare as their numbers do. */
function overlap(a: Span, b: Span): boolean {
  return a.timeline === b.timeline && a.first <= b.last && b.first <= a.last;
}

/** A payload may have 64 KiB, and a report is not all that is in one. */
export const REPORT_BYTES = 40 * 1024;

/** The report with lists short enough for a payload; the oldest entries are left out, and a warning says how many. */
export function cutReport(report: AuditReport, maxBytes = REPORT_BYTES): AuditReport {
  const warnings = report.warnings.slice(0, 20).map((text) => text.slice(0, 400));
  const bytesOf = (value: unknown) => new TextEncoder().encode(JSON.stringify(value)).length;
  const rest = maxBytes - bytesOf({ ...report, intervals: [], damages: [], warnings }) - 400;
  const damages = newestWithin(report.damages, rest / 2, bytesOf);
  const intervals = newestWithin(report.intervals, rest - bytesOf(damages), bytesOf);
  const omitted = [
    [report.damages.length - damages.length, 'older damages'],
    [report.intervals.length - intervals.length, 'older intervals'],
    [report.warnings.length - warnings.length, 'warnings'],
  ] as const;
  const notes = omitted
    .filter(([count]) => count > 0)
    .map(([count, what]) => `${count} more ${what} are not listed`);
  return { ...report, intervals, damages, warnings: [...warnings, ...notes] };
}

function newestWithin<T>(list: readonly T[], maxBytes: number, bytesOf: (value: unknown) => number): T[] {
  let left = maxBytes;
  const first = list.findLastIndex((entry) => (left -= bytesOf(entry) + 1) < 0);
  return list.slice(first + 1);
}
