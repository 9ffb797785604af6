import { BackupError, isBackupError } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import { parseWalFileName, timelineOf, type WalFile } from '../core/segment.ts';
import { historyFileName, type TimelineSwitch } from '../core/timeline.ts';
import {
  identifyHistory,
  identifySegment,
  requireBackupHistory,
  requireFittingTimeline,
  requireOwnWal,
  type ClusterIdentity,
} from '../postgres/wal-identity.ts';
import { parseWalHeader } from '../postgres/wal-page.ts';
import { walKey } from '../repository/layout.ts';
import { claimOwner } from '../repository/owner.ts';
import type { Repository } from '../repository/repository.ts';
import { digestOf } from '../repository/wal-digest.ts';
import { findWalByName } from '../repository/wal-object.ts';
import { findWal, putWal, readWal } from '../repository/wal.ts';
import type { FoundObject, Put } from '../stores/object-store.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { ArchivedCopies } from './archived-copies.ts';
import { attributesOf, compressProved, digestOfFile, type WalStorage } from './store-wal.ts';
import { readWalFile, type ReadWalFile } from './wal-file.ts';

export type { WalStorage } from './store-wal.ts';

export interface ArchivePorts extends WalStorage {
  repository(): Promise<Repository>;
  /** `pg_wal` of the one data directory that is archived. */
  readonly pgWalDirectory: string;
  /** Whose data directory it is: histories and backup labels do not say it themselves. */
  identity(): Promise<ClusterIdentity>;
  /** What is known of this repository already; whoever pushes more than once keeps one for each. */
  readonly memory?: ArchiveMemory;
  /** Milliseconds until `deadline-exceeded` (A5). */
  readonly deadlineMs?: number;
  /** Told of everything that was damaged in the archive and was set right: somebody has to look why. */
  readonly alert?: ((message: string) => void) | undefined;
}

/** Facts of a repository that never change once they were seen. */
export interface ArchiveMemory {
  owner?: ClusterIdentity;
  /** The timelines whose history is stored. */
  readonly histories: Map<number, Promise<readonly TimelineSwitch[] | undefined>>;
}

export function createArchiveMemory(): ArchiveMemory {
  return { histories: new Map() };
}

export interface PushedWal {
  /**
   * `already-archived`: equal bytes were there, whatever their codec · `repaired`: a copy of this very file was there, and
   * was damaged.
   */
  readonly outcome: 'archived' | 'already-archived' | 'repaired';
  /** Of the plain bytes. */
  readonly sha256: string;
  readonly plainBytes: number;
  readonly storedBytes: number;
}

/** Leaves a caller that waited ten seconds for a stalled agent before within the 60 s of A5. */
export const DEFAULT_PUSH_DEADLINE_MS = 48_000;

/**
 * Archives one file of `pg_wal`. When it resolves, the file's bytes are whole and durable in the repository (A1).
 * Nothing in the archive is ever replaced but a copy that contradicts the hash it was archived with, which is that of this
 * file (A3); nothing in `pg_wal` is touched (A8).
 *
 * @throws BackupError `format-invalid` | `wal-missing` for what can't be archived, `wal-foreign` (A4), `wal-conflict`
 *   (A3), `object-damaged` when the copy in the archive can't be read, `deadline-exceeded`, and what the store says
 */
export async function pushWal(
  ports: ArchivePorts,
  fileName: string,
  options: { readonly signal: AbortSignal },
): Promise<PushedWal> {
  const file = parseWalFileName(fileName);
  if (!file) {
    throw new BackupError('format-invalid', `"${fileName.slice(0, 100)}" is not the name of a WAL file`, {
      hint: 'archive_command has to pass %p, and PostgreSQL alone names the file',
    });
  }
  const deadlineMs = ports.deadlineMs ?? DEFAULT_PUSH_DEADLINE_MS;
  const deadline = AbortSignal.timeout(deadlineMs);
  const signal = AbortSignal.any([options.signal, deadline]);
  const push = new Push(ports, signal);
  try {
    return await unlessAborted(push.archive(file), signal);
  } catch (error) {
    if (!deadline.aborted || options.signal.aborted) throw error;
    throw new BackupError(
      'deadline-exceeded',
      `${fileName}: not archived within ${deadlineMs / 1000} s (${push.stage})`,
      {
        cause: error,
        hint: 'PostgreSQL asks again; look at the way to the store and at its load',
      },
    );
  }
}

/** One call: the order of its steps is the promise. */
class Push {
  /** For the message when time runs out. */
  stage = 'reading pg_wal';
  readonly #ports: ArchivePorts;
  readonly #memory: ArchiveMemory;
  readonly #signal: AbortSignal;

  constructor(ports: ArchivePorts, signal: AbortSignal) {
    this.#ports = ports;
    this.#memory = ports.memory ?? createArchiveMemory();
    this.#signal = signal;
  }

  async archive(file: WalFile): Promise<PushedWal> {
    const read = await readWalFile(this.#ports.pgWalDirectory, file, { signal: this.#signal });
    this.stage = 'opening the repository';
    const repository = await this.#ports.repository();
    // Beside what follows, so that storing need not wait for it; what fails here is said where it is needed.
    void repository.recall?.(this.#signal).catch(() => undefined);
    await this.#requireOwn(repository, file, read.bytes);
    return this.#store(repository, file, read);
  }

  /** A4: only own WAL, under its own name; and A7: after the history of its timeline. */
  async #requireOwn(repository: Repository, file: WalFile, bytes: Uint8Array): Promise<void> {
    if (file.kind === 'history') {
      identifyHistory(file, bytes);
      await this.#requireOwner(repository, file, await this.#ports.identity());
      return;
    }
    if (file.kind === 'backup-history') {
      requireBackupHistory(file, bytes);
      await this.#requireOwner(repository, file, await this.#ports.identity());
      await this.#ensureHistory(repository, timelineOf(file.segment));
      return;
    }
    const header = identifySegment(file, bytes);
    await this.#requireOwner(repository, file, header);
    const history = await this.#ensureHistory(repository, timelineOf(file.segment));
    requireFittingTimeline(file, header, history);
  }

  /** The first contact decides whose repository it is; what lies there already has the first word. */
  async #requireOwner(repository: Repository, file: WalFile, found: ClusterIdentity): Promise<void> {
    if (!this.#memory.owner) {
      this.stage = `looking whose archive ${repository.url} is`;
      const identity = { systemId: found.systemId, segmentSize: found.segmentSize };
      this.#memory.owner = await claimOwner(repository, identity, this.#signal, (head) =>
        parseWalHeader(head),
      );
    }
    requireOwnWal(file.name, found, this.#memory.owner, repository.url);
  }

  /** The history of a timeline is stored before anything else of it is confirmed. @returns its switches */
  async #ensureHistory(
    repository: Repository,
    timeline: number,
  ): Promise<readonly TimelineSwitch[] | undefined> {
    if (timeline === 1) return undefined;
    const { histories } = this.#memory;
    const earlier = histories.get(timeline);
    // Another file's try may be at it. Its failure, or its deadline, is no answer for this file (A5).
    const known = await (earlier && unlessAborted(earlier, this.#signal).catch(() => undefined));
    if (known) return known;
    this.#signal.throwIfAborted();
    const ensured = this.#storeHistory(repository, timeline);
    histories.set(timeline, ensured);
    // neither a failure nor an absence is a fact that lasts
    const forget = () => histories.delete(timeline);
    ensured.then((switches) => switches ?? forget(), forget);
    return ensured;
  }

  async #storeHistory(
    repository: Repository,
    timeline: number,
  ): Promise<readonly TimelineSwitch[] | undefined> {
    const file = { kind: 'history', name: historyFileName(timeline), timeline } as const;
    try {
      const read = await readWalFile(this.#ports.pgWalDirectory, file, { signal: this.#signal });
      const switches = identifyHistory(file, read.bytes);
      await this.#store(repository, file, read);
      return switches;
    } catch (error) {
      if (!isBackupError(error, 'wal-missing')) throw error;
    }
    const [archived] = await findWal(repository, file.name, this.#signal);
    if (!archived) return undefined;
    return identifyHistory(file, await readWal(repository, archived, LARGEST_HISTORY_BYTES, this.#signal));
  }

  async #store(repository: Repository, file: WalFile, read: ReadWalFile): Promise<PushedWal> {
    const { bytes, sha256 } = read;
    this.stage = `looking for ${file.name} in ${repository.url}`;
    const existing = await findWal(repository, file.name, this.#signal);
    const plain = { sha256, plainBytes: bytes.length };
    if (existing.length > 0) {
      const outcome = await this.#copies(repository).settle(existing, read);
      return { outcome, ...plain, storedBytes: existing[0]?.sizeBytes ?? 0 };
    }

    const { codec, level } = this.#ports;
    const stored = await compressProved(codec, bytes, level);
    const key = walKey(repository.server, file.name, codec);
    this.stage = `storing ${file.name} in ${repository.url}`;
    failpoint('push.before-store');
    let put: Put;
    try {
      put = await putWal(repository, file.name, stored, codec, {
        ...attributesOf(this.#ports, file),
        signal: this.#signal,
        digest: digestOfFile(read),
      });
    } catch (error) {
      if (!isBackupError(error, 'already-exists')) throw error;
      // someone was faster, or the store did it at the first try and its answer was lost
      return this.#acceptRival(repository, key, file, read);
    }
    failpoint('push.stored-not-answered');
    const found = await this.#requireStored(repository, key, stored.length, read);
    // E3: such a store lets a rival write over what was just written
    if (!repository.store.features.ifAbsent) await this.#acceptRival(repository, key, file, read);
    // what was put, and not what is there by now: who wakes up late must not speak for another's object
    const { modifiedAt = found.modifiedAt } = put;
    await this.#copies(repository).record({ key, modifiedAt }, read);
    return { outcome: 'archived', ...plain, storedBytes: stored.length };
  }

  #copies(repository: Repository): ArchivedCopies {
    const onStage = (stage: string) => void (this.stage = stage);
    const { alert } = this.#ports;
    return new ArchivedCopies({ repository, storage: this.#ports, signal: this.#signal, alert, onStage });
  }

  /** @param key where something is, as the store says: a listing without it is late, and each name is asked for */
  async #acceptRival(
    repository: Repository,
    key: string,
    file: WalFile,
    read: ReadWalFile,
  ): Promise<PushedWal> {
    const listed = await findWal(repository, file.name, this.#signal);
    const isLate = !listed.some((copy) => copy.key === key);
    const rivals = isLate ? await findWalByName(repository, file.name, this.#signal) : listed;
    const [first] = rivals;
    if (!first) {
      throw new BackupError('store-unavailable', `${key}: the store says it exists, but does not find it`);
    }
    return {
      outcome: await this.#copies(repository).settle(rivals, read),
      sha256: read.sha256,
      plainBytes: read.bytes.length,
      storedBytes: first.sizeBytes,
    };
  }

  /** The store's own word on what it holds now: an answer alone has been wrong before. */
  async #requireStored(
    repository: Repository,
    key: string,
    sizeBytes: number,
    read: ReadWalFile,
  ): Promise<FoundObject> {
    this.stage = `checking what ${repository.url} holds at ${key}`;
    const object = await repository.store.head(key, { signal: this.#signal });
    // without create-if-absent a rival may have written over it: its bytes are compared next
    const recorded = repository.store.features.ifAbsent && object ? digestOf(object.metadata) : undefined;
    const isOurs = recorded === undefined || recorded.sha256 === read.sha256;
    if (object?.sizeBytes === sizeBytes && isOurs) return object;
    const found = object ? `${object.sizeBytes} bytes${isOurs ? '' : ' of another file'}` : 'nothing';
    throw new BackupError(
      'store-unavailable',
      `${key}: ${sizeBytes} bytes were stored, but the store holds ${found}`,
      {
        hint: 'the store lost or cut an object it had confirmed; nothing was reported as archived',
      },
    );
  }
}

const LARGEST_HISTORY_BYTES = 4 << 20;
