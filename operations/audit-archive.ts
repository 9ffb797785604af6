import { damagesAfter, type ArchiveDamage, type AuditReport, type RepairRound } from '../core/audit.ts';
import { messageOf } from '../core/errors.ts';
import {
  lostHistories,
  needsBaseBackup,
  recoverableStretches,
  withoutSegments,
  type RecoverableStretch,
  type WindowFacts,
} from '../core/intervals.ts';
import { DEFAULT_SEGMENT_SIZE } from '../core/segment.ts';
import { historyFileName } from '../core/timeline.ts';
import { readAuditRecord, writeAuditRecord, type AuditRecord } from '../repository/audit-record.ts';
import { inspectBackups, type BackupFolder } from '../repository/backup-parts.ts';
import { listBackups, type CatalogueEntry } from '../repository/catalogue.ts';
import { readOwner } from '../repository/owner.ts';
import type { Repository } from '../repository/repository.ts';
import { listVerifications } from '../repository/verifications.ts';
import { readHistories } from '../repository/wal.ts';
import {
  faultyDamages,
  historyDamage,
  missingDamages,
  namesOf,
  settled,
  unusableOf,
} from './audit-damages.ts';
import { reportIntervals } from './audit-intervals.ts';
import { listArchive, type ArchiveListing } from './audit-listing.ts';
import { damagedObjects, readArchive, recordedRanges, type ReadArchive } from './audit-reading.ts';

export interface AuditRequest {
  /** How much WAL is read and decoded: `none`, what is new since the last audit, or `all`. */
  readonly read: 'none' | 'new' | 'all';
  /** What instances did about the damages of an audit before: looked at again, and told of in the report. */
  readonly round?: RepairRound | undefined;
  /** How many segments the audit before the round had read. */
  readonly readBefore?: number | undefined;
}

export interface AuditProgress {
  readonly phase: 'listing' | 'reading' | 'reporting';
  readonly segments: number;
  readonly segmentsRead: number;
  readonly storedBytesRead: number;
}

export interface AuditOptions {
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: AuditProgress) => void;
  readonly now?: () => Date;
  /** Stored bytes that one audit of `new` reads at most; the next one goes on. Default 32 GiB. */
  readonly maxNewBytes?: number;
  /** How long a gap in front of what was stored just now may take to close. Default 10 s. */
  readonly settleMs?: number;
}

const MAX_NEW_BYTES = 32 * 2 ** 30;
const SETTLE_MS = 10_000;
const MAX_DAMAGES = 5_000;

/**
 * Looks at the whole archive: which moments can be restored to, what is missing and what is damaged. It reads names
 * always, and content as asked, with bounded memory; it changes nothing but the record of itself.
 *
 * @throws BackupError when any listing or reading fails: an audit is complete or there is none
 */
export async function auditArchive(
  repository: Repository,
  request: AuditRequest,
  options: AuditOptions,
): Promise<AuditReport> {
  const { signal, onProgress } = options;
  const at = (options.now?.() ?? new Date()).toISOString();
  const warnings: string[] = [];
  const record = await earlierRecord(repository, signal, warnings);
  onProgress?.({ phase: 'listing', segments: 0, segmentsRead: 0, storedBytesRead: 0 });
  const { entries, backups, owner, identity, segmentSize } = await readBackups(repository, signal, warnings);
  const reread = namesOf(request.round, 'repaired', segmentSize);
  const asked = new Set([...reread, ...(record?.damaged ?? []).map(({ fileName }) => fileName)]);
  const listing = await listArchive(repository, { segmentSize, asked }, signal);
  const badHistories: ArchiveDamage[] = [];
  const histories = await readHistories(repository, signal, (fileName, error) => {
    badHistories.push(historyDamage('damaged', fileName, error.message));
  });
  const progress = (phase: AuditProgress['phase'], segmentsRead: number, storedBytesRead: number) =>
    onProgress?.({ phase, segments: listing.segmentCount, segmentsRead, storedBytesRead });
  progress('reading', 0, 0);
  const reading = await readArchive(repository, {
    read: request.read,
    reread,
    record,
    listing,
    owner: identity,
    histories,
    maxNewBytes: options.maxNewBytes ?? MAX_NEW_BYTES,
    signal,
    onRead: (segments, storedBytes) => progress('reading', segments, storedBytes),
  });
  progress('reporting', reading.segmentsRead, 0);

  const unusable = unusableOf(reading.faulty, segmentSize);
  const listed: WindowFacts = {
    backups,
    histories,
    segments: withoutSegments(listing.segments, unusable.segments),
    partials: listing.partials.filter((name) => !unusable.partials.has(name)),
    ...(owner && { systemId: owner.systemId }),
  };
  const facts = await settled(repository, listed, { settleMs: options.settleMs ?? SETTLE_MS, signal });
  const missing = missingDamages(facts, unusable.segments, namesOf(request.round, 'pending', segmentSize));
  const damages = [
    ...historyDamages(facts, badHistories),
    ...missing.damages,
    ...faultyDamages(reading.faulty, facts, warnings),
  ].toSorted((a, b) => (a.first < b.first ? -1 : 1));
  const stretches = recoverableStretches(facts);
  const newestVerified = await newestVerification(repository, signal, warnings);
  noteListing(listing, reading, warnings);
  if (entries.length === 0) warnings.push('there is no base backup yet: walkeep backup CLUSTER --wait');
  const report: AuditReport = {
    at,
    intervals: await reportIntervals(repository, facts, stretches, {
      readsWal: request.read !== 'none',
      signal,
    }),
    damages: (request.round ? damagesAfter(damages, request.round) : damages).slice(-MAX_DAMAGES),
    ...countBackups(stretches),
    segments: listing.segmentCount,
    walBytes: listing.walBytes,
    ...(newestVerified && { newestVerified }),
    ...(listing.newest && {
      newestSegment: { name: listing.newest.name, storedAt: listing.newest.storedAt.toISOString() },
    }),
    segmentsRead: reading.segmentsRead + (request.readBefore ?? 0),
    needsBackup: needsBaseBackup({ ...facts, segments: missing.expected }, unusable.segments),
    warnings,
  };
  // What was only listed was not looked at.
  const seenUntil = request.read === 'none' ? record?.newestStoredAt : listing.newestStoredAt?.toISOString();
  return keepRecord(repository, report, reading, { seenUntil, signal });
}

function historyDamages(facts: WindowFacts, unreadable: readonly ArchiveDamage[]): ArchiveDamage[] {
  const lost = lostHistories(facts)
    .map(historyFileName)
    .filter((fileName) => !unreadable.some(({ first }) => first === fileName));
  return [
    ...lost.map((fileName) => historyDamage('missing', fileName, 'there is WAL of its timeline')),
    ...unreadable,
  ];
}

/** Those that lead anywhere, each once. */
function countBackups(
  stretches: readonly RecoverableStretch[],
): Pick<AuditReport, 'backups' | 'newestBackup'> {
  const restorable = new Map(stretches.flatMap(({ backups }) => backups.map((one) => [one.backupId, one])));
  const newest = [...restorable.values()]
    .toSorted((a, b) => a.endTime.getTime() - b.endTime.getTime())
    .at(-1);
  return {
    backups: restorable.size,
    ...(newest && { newestBackup: { backupId: newest.backupId, endedAt: newest.endTime.toISOString() } }),
  };
}

async function earlierRecord(
  repository: Repository,
  signal: AbortSignal,
  warnings: string[],
): Promise<AuditRecord | undefined> {
  try {
    return await readAuditRecord(repository, signal);
  } catch (error) {
    signal.throwIfAborted();
    warnings.push(`what earlier audits read is not known: ${messageOf(error)}`);
    return undefined;
  }
}

async function readBackups(repository: Repository, signal: AbortSignal, warnings: string[]) {
  const [entries, owner, folders] = [
    await listBackups(repository, signal),
    await readOwner(repository, signal),
    await inspectBackups(repository, signal),
  ];
  const newest = entries.findLast(({ info }) => info !== undefined)?.info;
  const segmentSize = owner?.segmentSize ?? newest?.segmentSize ?? DEFAULT_SEGMENT_SIZE;
  const backups = entries.map((entry) => {
    const problem = problemOf(entry, folders.get(entry.backupId));
    if (problem !== undefined && entry.info?.status !== 'FAILED')
      warnings.push(`backup ${entry.backupId} can't be used: ${problem}`);
    const info = entry.info ?? { backupId: entry.backupId, status: 'EMPTY', segmentSize };
    return problem === undefined ? info : { ...info, problem };
  });
  // A repository that walkeep has not written to has no owner record, but its backups say whose it is.
  const systemId = owner?.systemId ?? newest?.systemId;
  const identity = systemId === undefined ? undefined : { systemId, segmentSize };
  return { entries, backups, owner, identity, segmentSize };
}

function problemOf({ info, problem }: CatalogueEntry, folder: BackupFolder | undefined): string | undefined {
  if (!info) return problem ?? 'its record can’t be read';
  if (info.status !== 'DONE' || info.snapshots === true) return undefined;
  const hasData = folder?.parts.some(({ area }) => area === 'data') ?? false;
  const found = [...(folder?.problems ?? []), ...(hasData ? [] : ['data.tar is missing'])];
  return found.length === 0 ? undefined : found.join('; ');
}

async function newestVerification(
  repository: Repository,
  signal: AbortSignal,
  warnings: string[],
): Promise<AuditReport['newestVerified']> {
  const problems = new Set<string>();
  const onProblem = (id: string) => void problems.add(id);
  const found = await listVerifications(repository, signal, { limit: 200, onProblem });
  if (problems.size > 0) warnings.push(`${problems.size} reports of verifications can't be read`);
  const newest = found.find(({ result }) => result === 'verified');
  return (
    newest && { id: newest.id, at: newest.endedAt, ...(newest.backupId && { backupId: newest.backupId }) }
  );
}

function noteListing(listing: ArchiveListing, reading: ReadArchive, warnings: string[]): void {
  const { strangeKeys, strangeCount } = listing;
  if (strangeCount > 0) {
    const more = strangeCount > strangeKeys.length ? ` and ${strangeCount - strangeKeys.length} more` : '';
    warnings.push(`no WAL files, but among them: ${strangeKeys.join(', ')}${more}`);
  }
  if (reading.left > 0)
    warnings.push(`${reading.left} segments were not read yet; the next audit goes on with them`);
}

/** Without the record the next audit reads more than it must; the report is the same. */
async function keepRecord(
  repository: Repository,
  report: AuditReport,
  reading: ReadArchive,
  { seenUntil, signal }: { seenUntil: string | undefined; signal: AbortSignal },
): Promise<AuditReport> {
  try {
    const record: AuditRecord = {
      version: 1,
      report,
      read: recordedRanges(reading.read),
      damaged: damagedObjects(reading.faulty),
      ...(seenUntil !== undefined && { newestStoredAt: seenUntil }),
    };
    await writeAuditRecord(repository, record, signal);
    return report;
  } catch (error) {
    signal.throwIfAborted();
    return { ...report, warnings: [...report.warnings, `the report could not be kept: ${messageOf(error)}`] };
  }
}
