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
import { findWal, putWal, readWal, type WalObject } from '../repository/wal.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { compressBytes, decompressBytes, type Codec } from '../streams/codec.ts';
import { readWalFile, type ReadWalFile } from './wal-file.ts';

/** How WAL files are stored; from the manifest's `wal`, `tags` and `historyTags`. */
export interface WalStorage {
  readonly codec: Codec;
  readonly level?: number;
  readonly encryption?: 'AES256' | 'aws:kms';
  readonly tags?: Readonly<Record<string, string>>;
  /** Replace `tags` on timeline histories, as barman-cloud's do. */
  readonly historyTags?: Readonly<Record<string, string>>;
}

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
  /** `already-archived`: equal bytes were there, whatever their codec. */
  readonly outcome: 'archived' | 'already-archived';
  /** Of the plain bytes. */
  readonly sha256: string;
  readonly plainBytes: number;
  readonly storedBytes: number;
}

/** Leaves a caller that waited ten seconds for a stalled agent before within the 60 s of A5. */
export const DEFAULT_PUSH_DEADLINE_MS = 48_000;

/**
 * Archives one file of `pg_wal`. When it resolves, the file's bytes are whole and durable in the repository (A1).
 * Nothing in the archive is ever replaced (A3), nothing in `pg_wal` is touched (A8).
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

  async #store(
    repository: Repository,
    file: WalFile,
    { bytes, sha256: hash }: ReadWalFile,
  ): Promise<PushedWal> {
    this.stage = `looking for ${file.name} in ${repository.url}`;
    const existing = await findWal(repository, file.name, this.#signal);
    const plain = { sha256: hash, plainBytes: bytes.length };
    if (existing.length > 0) {
      await this.#requireEqual(repository, existing, bytes);
      return { outcome: 'already-archived', ...plain, storedBytes: existing[0]?.sizeBytes ?? 0 };
    }

    const { codec, level, encryption } = this.#ports;
    const stored = await compressProved(codec, bytes, level);
    this.stage = `storing ${file.name} in ${repository.url}`;
    failpoint('push.before-store');
    const tags = (file.kind === 'history' ? this.#ports.historyTags : undefined) ?? this.#ports.tags;
    try {
      await putWal(repository, file.name, stored, codec, {
        signal: this.#signal,
        ...(encryption === undefined ? {} : { encryption }),
        ...(tags === undefined ? {} : { tags }),
      });
    } catch (error) {
      if (!isBackupError(error, 'already-exists')) throw error;
      // someone was faster, or the store did it at the first try and its answer was lost
      return this.#acceptRival(repository, file, { bytes, sha256: hash }, error);
    }
    failpoint('push.stored-not-answered');
    await this.#requireStored(repository, file, stored.length);
    // E3: such a store lets a rival write over what was just written
    if (!repository.store.features.ifAbsent)
      await this.#acceptRival(repository, file, { bytes, sha256: hash });
    return { outcome: 'archived', ...plain, storedBytes: stored.length };
  }

  async #acceptRival(
    repository: Repository,
    file: WalFile,
    read: ReadWalFile,
    cause?: unknown,
  ): Promise<PushedWal> {
    const rivals = await findWal(repository, file.name, this.#signal);
    const [first] = rivals;
    if (!first) {
      throw new BackupError(
        'store-unavailable',
        `${file.name}: the store says it exists, but does not list it`,
        { cause },
      );
    }
    await this.#requireEqual(repository, rivals, read.bytes);
    return {
      outcome: 'already-archived',
      sha256: read.sha256,
      plainBytes: read.bytes.length,
      storedBytes: first.sizeBytes,
    };
  }

  /** A2 and A3. Every copy is looked at: a reader may take any of them. */
  async #requireEqual(
    repository: Repository,
    copies: readonly WalObject[],
    bytes: Uint8Array,
  ): Promise<void> {
    for (const copy of copies) {
      this.stage = `comparing with ${copy.key}`;
      const isLarger = copy.codec === 'none' && copy.sizeBytes > bytes.length;
      const stored = isLarger ? undefined : await this.#readCopy(repository, copy, bytes.length);
      if (stored && Buffer.compare(stored, bytes) === 0) {
        // A1: whoever stored it may have been killed, or be at work, between "visible" and "durable"
        await repository.store.makeDurable?.(copy.key, { signal: this.#signal });
        continue;
      }
      throw new BackupError(
        'wal-conflict',
        `${copy.fileName}: the archive holds other bytes under this name (${repository.url}, ${copy.key})`,
      );
    }
  }

  async #readCopy(repository: Repository, copy: WalObject, expectedBytes: number): Promise<Uint8Array> {
    try {
      // one more than expected, so that a longer text is a conflict and not a bomb
      return await readWal(
        repository,
        copy,
        Math.max(expectedBytes + 1, LARGEST_HISTORY_BYTES),
        this.#signal,
      );
    } catch (error) {
      if (!isBackupError(error, 'object-damaged')) throw error;
      throw new BackupError('object-damaged', `${copy.key} in the archive can't be read: ${error.message}`, {
        cause: error,
        hint: 'it was left as it is: look at it, move it away, and PostgreSQL will archive the file again',
      });
    }
  }

  /** The store's own word on what it holds now: an answer alone has been wrong before. */
  async #requireStored(repository: Repository, file: WalFile, sizeBytes: number): Promise<void> {
    this.stage = `checking what ${repository.url} holds of ${file.name}`;
    const { codec } = this.#ports;
    const key = walKey(repository.server, file.name, codec);
    const object = await repository.store.head(key, { signal: this.#signal });
    if (object?.sizeBytes === sizeBytes) return;
    const found = object ? `${object.sizeBytes} bytes` : 'nothing';
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

/** Compressed bytes count when they were decompressed to what they came from (E1): compressors have been wrong. */
async function compressProved(codec: Codec, bytes: Uint8Array, level?: number): Promise<Uint8Array> {
  if (codec === 'none') return bytes;
  const compressed = await compressBytes(codec, bytes, level);
  const back = await decompressBytes(codec, compressed, bytes.length);
  if (Buffer.compare(back, bytes) === 0) return compressed;
  throw new BackupError(
    'object-damaged',
    `${codec} made something of ${bytes.length} bytes that does not give them back`,
    {
      hint: 'nothing was stored; the memory of this machine or the compression library is broken',
    },
  );
}
