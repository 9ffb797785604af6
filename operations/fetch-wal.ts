import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError, isBackupError } from '../core/errors.ts';
import { parseLsn } from '../core/lsn.ts';
import type { PlannedStep, PlannedTail } from '../core/recovery.ts';
import {
  parseWalFileName,
  segmentName,
  segmentNumber,
  timelineOf,
  type SegmentName,
  type WalFile,
} from '../core/segment.ts';
import { identifyHistory, identifySegment } from '../postgres/wal-identity.ts';
import { parseWalHeader, WAL_HEADER_BYTES } from '../postgres/wal-page.ts';
import { walFolder, walPrefix } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { findWalByName } from '../repository/wal-object.ts';
import {
  asArchived,
  findWal,
  listWal,
  readHistories,
  readWalCopy,
  readWalHead,
  type WalCopy,
  type WalObject,
} from '../repository/wal.ts';
import { unlessAborted } from '../streams/abortable.ts';

/** What the plan of a recovery lets `wal-fetch` know; a plain `restore_command` has none. */
export interface FetchPlan {
  readonly segmentSize: number;
  readonly systemId?: string | undefined;
  readonly timelinePath: readonly PlannedStep[];
  /** The missing segment that was accepted as the end of the recovery. */
  readonly acceptedEnd?: string | undefined;
  readonly tail?: PlannedTail | undefined;
}

export interface FetchWalPorts {
  repository(): Promise<Repository>;
  readonly plan?: FetchPlan | undefined;
  /** A standby: what is absent ends nothing, and is asked for again in seconds. */
  readonly asksAgain?: boolean;
  /** Whoever asks is no recovery: a place where nothing lies yet has not what is asked for, and that is no error. */
  readonly mayBeEmpty?: boolean;
  /** How long transient failures are retried, in milliseconds. Giving up stops a recovery, so it is long. */
  readonly deadlineMs?: number;
  /** Told when something was fetched that could not be proved as usual. */
  readonly alert?: ((message: string) => void) | undefined;
  /** Milliseconds before the first retry; it doubles up to ten times as much. */
  readonly retryAfterMs?: number;
}

export type FetchedWal =
  | { readonly outcome: 'fetched' }
  /** Proved: the archive was asked without any error, and nothing later of the path is there. */
  | { readonly outcome: 'absent' }
  /** Missing, although `later` is there. */
  | { readonly outcome: 'hole'; readonly later: string };

export const DEFAULT_FETCH_DEADLINE_MS = 120_000;
const LARGEST_HISTORY_BYTES = 4 << 20;
const LARGEST_SEGMENT_BYTES = 1 << 30;
/** A damaged object is read again this often: the damage may have come on the way. */
const READS_OF_DAMAGED = 2;
/** And the record of an object: what can be read of it is whole by its own signs, and recovery needs it. */
const READS_OF_RECORD = 2;

/**
 * Fetches one WAL file for `restore_command` (C3). `destination` appears whole and checked, or not at all.
 *
 * PostgreSQL takes "absent" for the end of the archive and opens the database. So this answer is given only when the
 * store said it without any error, and when the archive holds something, but nothing later of the path; every doubt throws.
 *
 * @throws BackupError whatever kept it from knowing: `store-unavailable`, `access-denied`, `object-damaged`,
 *   `wal-foreign`, `format-invalid`, `config-invalid`, `deadline-exceeded`
 */
export async function fetchWal(
  ports: FetchWalPorts,
  fileName: string,
  destination: string,
  options: { readonly signal: AbortSignal },
): Promise<FetchedWal> {
  const file = parseWalFileName(fileName);
  if (!file) {
    throw new BackupError('format-invalid', `"${fileName.slice(0, 100)}" is not the name of a WAL file`, {
      hint: 'restore_command has to pass %f and %p, and PostgreSQL alone names the file',
    });
  }
  const deadlineMs = ports.deadlineMs ?? DEFAULT_FETCH_DEADLINE_MS;
  const deadline = AbortSignal.timeout(deadlineMs);
  const signal = AbortSignal.any([options.signal, deadline]);
  let failure: unknown;
  const records = new Records(ports.alert);
  try {
    return await retrying(
      ports.retryAfterMs ?? 500,
      signal,
      (error) => (failure = error),
      async () => {
        const repository = await unlessAborted(ports.repository(), signal);
        const fetch = new Fetch(repository, { plan: ports.plan, records, signal });
        const listed = await unlessAborted(fetch.listed(file, destination), signal);
        // A listing may be late, and this answer ends a recovery: before it is given, each name is asked for by itself.
        if (listed.outcome !== 'absent' || ports.asksAgain === true) return listed;
        const named = await unlessAborted(fetch.named(file, destination), signal);
        // A plan was made of what lies there. Without one, nothing shows yet that this is the right place.
        if (named.outcome === 'absent' && !ports.plan && ports.mayBeEmpty !== true)
          await unlessAborted(requireContents(repository, signal), signal);
        return named;
      },
    );
  } catch (error) {
    if (!deadline.aborted || options.signal.aborted) throw error;
    throw new BackupError('deadline-exceeded', `${fileName}: not fetched within ${deadlineMs / 1000} s`, {
      cause: failure ?? error,
      hint: `${isBackupError(failure) ? `${failure.message}: ${failure.hint}` : 'look at the way to the store'}; recovery can go on after a restart of PostgreSQL`,
    });
  }
}

/**
 * Nothing at all lies in the archive of no cluster that can be recovered: another place was meant.
 *
 * @throws BackupError `config-invalid`
 */
async function requireContents(repository: Repository, signal: AbortSignal): Promise<void> {
  for await (const _ of repository.store.list(`${repository.server}/`, { signal })) return;
  throw new BackupError('config-invalid', `nothing lies at ${repository.url}: is the server name right?`, {
    hint: 'correct the URL or the server name; an empty place is not taken for the end of the WAL',
  });
}

/**
 * What `restore_command` exits with: 0 fetched, 1 proved absent. For all else more than 125 makes a recovery stop
 * without promoting, and up to 125 makes a standby wait and ask again.
 */
export function fetchExitCode(outcome: FetchedWal['outcome'] | 'failed', isStandby: boolean): number {
  if (outcome === 'fetched') return 0;
  if (outcome === 'absent') return 1;
  return isStandby ? 100 : 200;
}

async function retrying<T>(
  firstMs: number,
  signal: AbortSignal,
  onFailure: (error: unknown) => void,
  work: () => Promise<T>,
): Promise<T> {
  let damaged = 0;
  for (let waitMs = firstMs; ; waitMs = Math.min(waitMs * 2, firstMs * 10)) {
    try {
      return await work();
    } catch (error) {
      if (signal.aborted) throw error;
      if (isBackupError(error, 'object-damaged')) damaged += 1;
      const canHelp = isBackupError(error) ? error.retryable : false;
      if (!canHelp && !(damaged > 0 && damaged < READS_OF_DAMAGED)) throw error;
      onFailure(error);
      await sleep(waitMs, undefined, { signal });
    }
  }
}

/** Over all tries: records that can't be read, each asked for once more before it is done without. */
class Records {
  readonly #alert: FetchWalPorts['alert'];
  readonly #failures = new Map<string, number>();

  constructor(alert: FetchWalPorts['alert']) {
    this.#alert = alert;
  }

  /** @returns what is to be compared @throws what kept the record from being read, at first */
  of({ key }: WalObject, recorded: WalCopy['recorded']): WalCopy['recorded'] {
    if (!(recorded instanceof BackupError)) return recorded;
    const failures = (this.#failures.get(key) ?? 0) + 1;
    this.#failures.set(key, failures);
    if (failures < READS_OF_RECORD) throw recorded;
    this.#alert?.(
      `${key} was fetched without comparing the hash it was archived with, which can't be read: ${recorded.message}`,
    );
    return undefined;
  }
}

interface FetchOptions {
  readonly plan: FetchPlan | undefined;
  readonly records: Records;
  readonly signal: AbortSignal;
}

/** One try: the order of its steps is the promise. */
class Fetch {
  readonly #repository: Repository;
  readonly #plan: FetchPlan | undefined;
  readonly #records: Records;
  readonly #signal: AbortSignal;

  constructor(repository: Repository, { plan, records, signal }: FetchOptions) {
    this.#repository = repository;
    this.#plan = plan;
    this.#records = records;
    this.#signal = signal;
  }

  async named(file: WalFile, destination: string): Promise<FetchedWal> {
    const isThere = await this.#take(file.name, file, destination, findWalByName);
    return { outcome: isThere ? 'fetched' : 'absent' };
  }

  async listed(file: WalFile, destination: string): Promise<FetchedWal> {
    if (await this.#take(file.name, file, destination)) return { outcome: 'fetched' };
    if (file.kind === 'history') return this.#withoutHistory(file);
    if (file.kind !== 'segment') return { outcome: 'absent' };
    // The exact name comes first: a partial segment never stands in for a whole one.
    if (this.#plan?.tail?.segment === file.name) {
      if (this.#plan.tail.file !== file.name && (await this.#take(this.#plan.tail.file, file, destination))) {
        return { outcome: 'fetched' };
      }
      throw new BackupError(
        'object-missing',
        `${this.#plan.tail.file} was in the archive when this recovery was planned, and is no more`,
        {
          hint: 'plan the recovery again: walkeep restore --plan',
        },
      );
    }
    if (this.#plan?.acceptedEnd === file.name) return { outcome: 'absent' };
    const later = await this.#laterThan(file.segment);
    if (later === undefined) return { outcome: 'absent' };
    // Archived between the look-up and the listing: it is there after all.
    if (later === file.name)
      throw new BackupError('store-unavailable', `${file.name} appeared while it was looked for`);
    return { outcome: 'hole', later };
  }

  /** Puts the archived `fileName` in place under the name PostgreSQL asked for. @returns false when it is not archived */
  async #take(fileName: string, wanted: WalFile, destination: string, find = findWal): Promise<boolean> {
    const copies = await find(this.#repository, fileName, this.#signal);
    if (copies.length === 0) return false;
    const bytes = await this.#readOne(copies, wanted);
    await writeWhole(destination, bytes, this.#signal);
    return true;
  }

  /** The first copy that is whole: a name may be archived with several suffixes. */
  async #readOne(copies: readonly WalObject[], wanted: WalFile): Promise<Uint8Array> {
    const failures: unknown[] = [];
    for (const copy of copies) {
      try {
        const read = await readWalCopy(this.#repository, copy, this.#largest(wanted), this.#signal);
        // what is wrong by itself needs no record to be refused, and is told better
        const { plain } = read;
        if (plain instanceof BackupError) throw plain;
        this.#check(wanted, copy, plain);
        const bytes = asArchived(copy, { plain, recorded: this.#records.of(copy, read.recorded) });
        const isSegment = wanted.kind === 'segment' || wanted.kind === 'partial';
        return isSegment ? this.#cut(wanted.segment, bytes) : bytes;
      } catch (error) {
        this.#signal.throwIfAborted();
        failures.push(error);
      }
    }
    throw failures.find((error) => isBackupError(error) && error.retryable) ?? failures[0];
  }

  #largest(wanted: WalFile): number {
    if (wanted.kind === 'history' || wanted.kind === 'backup-history') return LARGEST_HISTORY_BYTES;
    return this.#plan?.segmentSize ?? LARGEST_SEGMENT_BYTES;
  }

  #check(wanted: WalFile, copy: WalObject, bytes: Uint8Array): void {
    if (wanted.kind === 'backup-history') return;
    if (wanted.kind === 'history') {
      damagedUnless(copy, () => identifyHistory(wanted, bytes));
      return;
    }
    const header = damagedUnless(copy, () => identifySegment(wanted, bytes));
    const { systemId, segmentSize } = this.#plan ?? {};
    if (systemId !== undefined && header.systemId !== systemId) {
      throw new BackupError(
        'wal-foreign',
        `${copy.key} is WAL of system ${header.systemId}, the recovery is of ${systemId}`,
      );
    }
    if (segmentSize !== undefined && header.segmentSize !== segmentSize) {
      throw new BackupError(
        'wal-foreign',
        `${copy.key} has segments of ${header.segmentSize} bytes, the recovery of ${segmentSize}`,
      );
    }
  }

  /**
   * Where the path leaves a timeline within this segment, what follows belongs to another life of the database.
   * PostgreSQL zeroes it when it begins a timeline; asked for the old name, it would replay it.
   */
  #cut(segment: SegmentName, bytes: Uint8Array): Uint8Array {
    const endsAt = this.#plan?.timelinePath.find(({ timeline }) => timeline === timelineOf(segment))?.endsAt;
    if (endsAt === undefined) return bytes;
    const begin = segmentNumber(segment, bytes.length) * BigInt(bytes.length);
    const keep = parseLsn(endsAt) - begin;
    if (keep <= 0n || keep >= BigInt(bytes.length)) return bytes;
    const cut = new Uint8Array(bytes.length);
    cut.set(bytes.subarray(0, Number(keep)));
    return cut;
  }

  /**
   * Most histories do not exist: PostgreSQL probes upwards. One of the path, or one whose timeline has WAL, was
   * lost; taking it for absent would end the recovery on an older timeline.
   */
  async #withoutHistory(file: Extract<WalFile, { kind: 'history' }>): Promise<FetchedWal> {
    if (this.#plan) {
      const [, ...descendants] = this.#plan.timelinePath;
      const isNeeded = descendants.some(({ timeline }) => timeline === file.timeline);
      return isNeeded
        ? { outcome: 'hole', later: `timeline ${file.timeline} of the path` }
        : { outcome: 'absent' };
    }
    if (file.timeline === 1) return { outcome: 'absent' };
    const later = await this.#firstOf(file.timeline, undefined);
    return later === undefined ? { outcome: 'absent' } : { outcome: 'hole', later };
  }

  /** A segment behind `segment` that the same recovery would need, or `segment` itself if it is there by now. */
  async #laterThan(segment: SegmentName): Promise<string | undefined> {
    const timeline = timelineOf(segment);
    const path = this.#plan?.timelinePath ?? [];
    const from = path.findIndex((step) => step.timeline === timeline);
    if (this.#plan === undefined || from < 0) return this.#laterAnywhere(segment);
    const size = this.#plan.segmentSize;
    const number = segmentNumber(segment, size);
    for (const step of path.slice(from)) {
      const begin =
        step.timeline === timeline ? number : max(number + 1n, parseLsn(step.beginsAt) / BigInt(size));
      const leave = step.endsAt === undefined ? undefined : parseLsn(step.endsAt) / BigInt(size);
      const found = await this.#firstOf(step.timeline, segmentName(step.timeline, begin, size));
      const isOnPath =
        found !== undefined &&
        (leave === undefined || segmentNumber(found, size) < leave || found === segment);
      if (isOnPath) return found;
    }
    return undefined;
  }

  /** Without a plan: anything later on the timeline, and on every timeline that left it later than here. */
  async #laterAnywhere(segment: SegmentName): Promise<string | undefined> {
    const timeline = timelineOf(segment);
    const own = await this.#firstOf(timeline, segment);
    if (own !== undefined) return own;
    const histories = await readHistories(this.#repository, this.#signal);
    for (const [descendant, switches] of histories) {
      const left = switches.find((step) => step.timeline === timeline);
      if (left === undefined) continue;
      const found = await this.#firstOf(descendant, undefined);
      // Both names have the log and segment after the timeline, so positions compare as text for any segment size.
      if (
        found !== undefined &&
        found.slice(8) > segment.slice(8) &&
        !(await this.#isWithin(left.switchedAt, segment))
      )
        return found;
    }
    return undefined;
  }

  /** Whether a timeline branched off inside this very segment: then its own segment of that number goes on. */
  async #isWithin(switchedAt: bigint, segment: SegmentName): Promise<boolean> {
    const size = await this.#segmentSize();
    return size !== undefined && switchedAt / BigInt(size) <= segmentNumber(segment, size);
  }

  async #segmentSize(): Promise<number | undefined> {
    for await (const object of listWal(this.#repository, this.#signal, { withoutHistories: true })) {
      if (object.file.kind !== 'segment') continue;
      // what is behind the header may be damaged: it is not this segment that is asked for
      const head = await readWalHead(this.#repository, object, WAL_HEADER_BYTES, this.#signal);
      return damagedUnless(object, () => parseWalHeader(head)).segmentSize;
    }
    return undefined;
  }

  /** The first segment of a timeline at or behind `from` in the archive, by an error-free listing. */
  async #firstOf(timeline: number, from: SegmentName | undefined): Promise<SegmentName | undefined> {
    const prefix = timeline.toString(16).toUpperCase().padStart(8, '0');
    const first = from ?? `${prefix}0000000000000000`;
    const folder = walFolder(this.#repository.server, first).slice(
      walPrefix(this.#repository.server).length,
      -1,
    );
    for await (const { file } of listWal(this.#repository, this.#signal, {
      fromFolder: folder,
      withoutHistories: true,
    })) {
      if (file.kind !== 'segment') continue;
      if (!file.name.startsWith(prefix)) return undefined;
      if (file.name >= first) return file.segment;
    }
    return undefined;
  }
}

const max = (a: bigint, b: bigint) => (a > b ? a : b);

/** What PostgreSQL could not have archived was damaged later. */
function damagedUnless<T>(copy: WalObject, check: () => T): T {
  try {
    return check();
  } catch (error) {
    if (!isBackupError(error, 'format-invalid')) throw error;
    throw new BackupError('object-damaged', `${copy.key} is damaged: ${error.message}`, { cause: error });
  }
}

/**
 * Writes a file that is there whole or not at all. The temporary name is one that PostgreSQL removes when it starts
 * (`xlogtemp.`), so a killed fetch leaves nothing in `pg_wal` for long.
 */
async function writeWhole(destination: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
  const temporary = join(
    dirname(destination),
    `xlogtemp.walkeep-${process.pid}-${randomBytes(6).toString('hex')}`,
  );
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  try {
    const handle = await open(temporary, flags, 0o600);
    try {
      await handle.writeFile(bytes, { signal });
      await handle.sync();
    } finally {
      await handle.close();
    }
    signal.throwIfAborted();
    await rename(temporary, destination);
  } catch (error) {
    await rm(temporary, { force: true });
    if (signal.aborted) throw signal.reason;
    throw writeFailure(error, destination);
  }
}

function writeFailure(error: unknown, destination: string): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new BackupError('disk-full', `no room for ${destination}`, { cause: error });
  }
  if (typeof code !== 'string') return error;
  return new BackupError('config-invalid', `can't write ${destination}: ${code}`, { cause: error });
}
