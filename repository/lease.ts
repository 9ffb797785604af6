import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import { ownKey } from './layout.ts';
import { ownRecordBytes, readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';
import { utf8 } from './small-object.ts';
import { storeTime } from './store-time.ts';

/** The right to do something with a repository that only one may do, as long as it is renewed. */
export interface Lease {
  /** Grows with every holder; whoever has an older one does nothing any more (F1). */
  readonly epoch: number;
  /** Whether the store makes sure that an epoch has one holder. Where it does not, that is only likely. */
  readonly isExclusive: boolean;
  /** Aborted when it is noticed that the lease is lost. */
  readonly lost: AbortSignal;
  /**
   * To be asked right before each step that can't be taken back.
   *
   * @throws BackupError `lease-lost` when a later epoch was taken, its own is gone, or it was not renewed in time
   */
  check(signal: AbortSignal): Promise<void>;
  /** Lets the next one begin at once. Never throws: a lease that is not released runs out. */
  release(): Promise<void>;
}

export interface LeaseOptions {
  readonly signal: AbortSignal;
  /** Names the holder, for whoever meets the lease. */
  readonly holder: string;
  /** How long it lasts without being renewed. */
  readonly ttlMs?: number;
  /** How long a store without create-if-absent is given until who wrote last is known. */
  readonly settleMs?: number;
}

interface LeaseRecord {
  readonly version: 1;
  readonly epoch: number;
  readonly holder: string;
  readonly host: string;
  readonly pid: number;
  /** Tells two holders of one epoch apart, where the store could not. */
  readonly nonce: string;
  readonly ttlMs: number;
  readonly released: boolean;
}

const FOLDER = 'leases';
const DEFAULT_TTL_MS = 60_000;
const DEFAULT_SETTLE_MS = 2_000;
const RELEASE_MS = 15_000;
const RENEW_MS = 15_000;
const MAX_LEASE_BYTES = 64 * 1024;
const NAME = /^\d{10}\.json$/;

const leaseSchema: z.ZodType<LeaseRecord> = z.object({
  version: z.literal(1),
  epoch: z.number().int().positive(),
  holder: z.string().max(1000),
  host: z.string().max(255),
  pid: z.number().int(),
  nonce: z.string().max(100),
  ttlMs: z.number().int().positive(),
  released: z.boolean(),
});

/**
 * Takes the lease on `what` with the next epoch, and renews it until it is released. Each epoch is an object of its own
 * that is created once; who holds the newest holds the lease, until it was not renewed for its time (by the store's
 * clock, so that no host's clock matters).
 *
 * @throws BackupError `lease-held` while somebody else has it
 */
export async function takeLease(r: Repository, what: string, options: LeaseOptions): Promise<Lease> {
  const { signal, holder, ttlMs = DEFAULT_TTL_MS, settleMs = DEFAULT_SETTLE_MS } = options;
  const newest = await newestEpoch(r, what, signal);
  if (newest) await requireFree(r, what, newest, signal);
  const isExclusive = await keepsWhatIsThere(r, what, signal);
  const record: LeaseRecord = {
    version: 1,
    epoch: (newest?.epoch ?? 0) + 1,
    holder,
    host: hostname(),
    pid: process.pid,
    nonce: randomUUID(),
    ttlMs,
    released: false,
  };
  const askedAt = now();
  try {
    await write(r, what, record, { signal, ifAbsent: true });
  } catch (error) {
    if (!isBackupError(error, 'already-exists')) throw error;
    throw held(r, what, 'somebody else took it at the same moment');
  }
  if (!isExclusive) {
    await sleep(settleMs, undefined, { signal });
    await requireOurs(r, what, record, signal);
  }
  const lease = new HeldLease(r, what, record, isExclusive, askedAt);
  // Tidiness; the next holder tries again.
  await forgetOld(r, what, record.epoch, signal).catch(() => undefined);
  return lease;
}

/** Who took a lease last, for people. */
export interface LeaseState {
  readonly epoch: number;
  readonly holder: string;
  readonly host: string;
  /** It ends so long after it was renewed last, by the store's clock. */
  readonly ttlMs: number;
  readonly renewedAt: Date;
  readonly released: boolean;
}

/**
 * Looks who has a lease; changes nothing.
 *
 * @returns `undefined` when nobody ever had it
 * @throws BackupError `format-invalid` when that can't be read
 */
export async function lookAtLease(
  r: Repository,
  what: string,
  signal: AbortSignal,
): Promise<LeaseState | undefined> {
  const newest = await newestEpoch(r, what, signal);
  const record = newest && (await readLease(r, what, newest.epoch, signal));
  if (!newest || !record) return undefined;
  const { epoch, holder, host, ttlMs, released } = record;
  return { epoch, holder, host, ttlMs, released, renewedAt: newest.storedAt };
}

class HeldLease implements Lease {
  readonly epoch: number;
  readonly isExclusive: boolean;
  readonly #repository: Repository;
  readonly #what: string;
  readonly #record: LeaseRecord;
  readonly #lost = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly #closing = new AbortController();
  #renewedAt: Moment;
  #renewal: Promise<void> | undefined;

  constructor(r: Repository, what: string, record: LeaseRecord, isExclusive: boolean, renewedAt: Moment) {
    this.epoch = record.epoch;
    this.isExclusive = isExclusive;
    this.#repository = r;
    this.#what = what;
    this.#record = record;
    this.#renewedAt = renewedAt;
    this.#timer = setInterval(() => this.#renewSoon(), record.ttlMs / 4);
    this.#timer.unref();
  }

  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  async check(signal: AbortSignal): Promise<void> {
    this.#requireInTime();
    const newest = await newestEpoch(this.#repository, this.#what, signal);
    if (newest !== undefined && newest.epoch > this.epoch) this.#loseTo(newest.epoch);
    if (newest?.epoch !== this.epoch) await this.#requireThere(signal);
    if (!this.isExclusive) {
      await requireOurs(this.#repository, this.#what, this.#record, signal).catch((error: unknown) => {
        if (isBackupError(error, 'lease-held')) this.#lose(error.message);
        throw error;
      });
    }
    // The look itself may have taken long.
    this.#requireInTime();
    this.#lost.signal.throwIfAborted();
  }

  /** A listing that does not show ours may be late, and then not show what came after ours either: both are asked for. */
  async #requireThere(signal: AbortSignal): Promise<void> {
    const isThere = async (epoch: number) =>
      (await this.#repository.store.head(leaseKey(this.#repository, this.#what, epoch), { signal })) !==
      undefined;
    // Ours last: whoever comes two after us takes it away, and leaves the one between.
    if (await isThere(this.epoch + 1)) this.#loseTo(this.epoch + 1);
    if (!(await isThere(this.epoch))) this.#lose('its object is gone');
  }

  async release(): Promise<void> {
    clearInterval(this.#timer);
    this.#closing.abort(new Error('the lease is being released'));
    await this.#renewal;
    if (this.#lost.signal.aborted) return;
    const signal = AbortSignal.timeout(RELEASE_MS);
    await write(this.#repository, this.#what, { ...this.#record, released: true }, { signal }).catch(
      // It runs out by itself, and nobody is harmed by waiting that long.
      () => undefined,
    );
  }

  #renewSoon(): void {
    if (this.#renewal || this.#lost.signal.aborted || this.#closing.signal.aborted) return;
    this.#renewal = this.#renew().finally(() => (this.#renewal = undefined));
  }

  async #renew(): Promise<void> {
    try {
      // Whoever was frozen longer than the lease lasts has lost it, also when nobody took it yet.
      this.#requireInTime();
      const askedAt = now();
      const signal = AbortSignal.any([AbortSignal.timeout(RENEW_MS), this.#closing.signal]);
      await write(this.#repository, this.#what, this.#record, { signal });
      this.#renewedAt = askedAt;
    } catch {
      // Tried again at the next turn; `check` says when it is too late.
    }
  }

  #requireInTime(): void {
    const { ttlMs } = this.#record;
    if (elapsedMs(this.#renewedAt) >= ttlMs) this.#lose(`it was not renewed for ${ttlMs} ms`);
  }

  #loseTo(epoch: number): never {
    this.#lose(`epoch ${epoch} was taken after ${this.epoch}`);
  }

  #lose(why: string): never {
    clearInterval(this.#timer);
    const error = new BackupError(
      'lease-lost',
      `the lease on ${this.#what} of ${this.#repository.url}: ${why}`,
    );
    this.#lost.abort(error);
    throw error;
  }
}

/** Of both clocks: one stands still in a suspended machine, the other one is set by people. */
interface Moment {
  readonly monotonic: number;
  readonly wall: number;
}

function now(): Moment {
  return { monotonic: performance.now(), wall: Date.now() };
}

function elapsedMs(since: Moment): number {
  return Math.max(performance.now() - since.monotonic, Date.now() - since.wall);
}

interface Epoch {
  readonly epoch: number;
  readonly storedAt: Date;
}

async function newestEpoch(r: Repository, what: string, signal: AbortSignal): Promise<Epoch | undefined> {
  return (await epochs(r, what, signal)).at(-1);
}

/** Ascending. */
async function epochs(r: Repository, what: string, signal: AbortSignal): Promise<Epoch[]> {
  const prefix = `${ownKey(r.server, FOLDER, what)}/`;
  const found: Epoch[] = [];
  for await (const { key, modifiedAt } of r.store.list(prefix, { signal })) {
    const name = key.slice(prefix.length);
    if (NAME.test(name)) found.push({ epoch: Number(name.slice(0, 10)), storedAt: modifiedAt });
  }
  return found;
}

async function requireFree(r: Repository, what: string, newest: Epoch, signal: AbortSignal): Promise<void> {
  const record = await readLease(r, what, newest.epoch, signal);
  // Gone or released: nobody has it. Epochs go on growing.
  if (record === undefined || record.released) return;
  const ageMs = (await storeTime(r, signal)).getTime() - newest.storedAt.getTime();
  if (ageMs >= record.ttlMs) return;
  const seconds = Math.max(1, Math.ceil((record.ttlMs - ageMs) / 1000));
  throw held(
    r,
    what,
    `${record.holder} has it (host ${record.host}, process ${record.pid}); unless it is renewed it ends in ${seconds} s`,
  );
}

async function requireOurs(
  r: Repository,
  what: string,
  ours: LeaseRecord,
  signal: AbortSignal,
): Promise<void> {
  const stored = await readLease(r, what, ours.epoch, signal);
  if (stored?.nonce !== ours.nonce) throw held(r, what, `${stored?.holder ?? 'somebody'} wrote after us`);
}

function held(r: Repository, what: string, why: string): BackupError {
  return new BackupError('lease-held', `the lease on ${what} of ${r.url} is taken: ${why}`);
}

/**
 * Whether the store refuses to create what exists already: tried on an object made for that, since some servers say
 * yes to the question and do not look.
 */
async function keepsWhatIsThere(r: Repository, what: string, signal: AbortSignal): Promise<boolean> {
  const key = ownKey(r.server, FOLDER, what, 'probe');
  for (let tried = 0; tried < 2; tried += 1) {
    const bytes = utf8(`${randomUUID()}\n`);
    try {
      await r.store.put(key, bytes, { signal, ifAbsent: true, sizeBytes: bytes.length });
    } catch (error) {
      // Asked afterwards: what a store does is found out by its first creation. It may have been refused by turns (E3).
      if (isBackupError(error, 'already-exists')) return r.store.features.ifAbsent;
      throw error;
    }
  }
  return false;
}

async function write(
  r: Repository,
  what: string,
  record: LeaseRecord,
  options: { readonly signal: AbortSignal; readonly ifAbsent?: boolean },
): Promise<void> {
  const key = leaseKey(r, what, record.epoch);
  const bytes = ownRecordBytes(key, record, leaseSchema);
  await r.store.put(key, bytes, { ...options, sizeBytes: bytes.length });
}

function readLease(
  r: Repository,
  what: string,
  epoch: number,
  signal: AbortSignal,
): Promise<LeaseRecord | undefined> {
  const key = leaseKey(r, what, epoch);
  return readOwnRecord(r, key, { schema: leaseSchema, maxBytes: MAX_LEASE_BYTES, signal }).catch(
    (error: unknown) => {
      if (!isBackupError(error, 'format-invalid', 'object-damaged')) throw error;
      throw new BackupError(
        'format-invalid',
        `who has the lease on ${what} is not known: ${messageOf(error)}`,
        {
          cause: error,
          hint: `make sure that nothing sweeps ${r.url}, and remove ${key}`,
        },
      );
    },
  );
}

/** The epochs before the last one say nothing any more. */
async function forgetOld(r: Repository, what: string, epoch: number, signal: AbortSignal): Promise<void> {
  const old = (await epochs(r, what, signal)).filter((other) => other.epoch < epoch - 1);
  if (old.length > 0)
    await r.store.delete(
      old.map((other) => leaseKey(r, what, other.epoch)),
      { signal },
    );
}

function leaseKey(r: Repository, what: string, epoch: number): string {
  return ownKey(r.server, FOLDER, what, `${String(epoch).padStart(10, '0')}.json`);
}
