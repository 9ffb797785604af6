import { join } from 'node:path';
import { isBackupError } from '../core/errors.ts';
import type { WalFile } from '../core/segment.ts';
import type { ClusterIdentity } from '../postgres/wal-identity.ts';
import { unlessAborted } from '../streams/abortable.ts';
import type { ArchiveSource, ArchiveTarget } from './archive-source.ts';
import { readArchiveStatus } from './archive-status.ts';
import { createArchiveMemory, pushWal, type ArchiveMemory, type PushedWal } from './archive-wal.ts';
import { hashWalFile } from './wal-file.ts';

export interface UploadsPorts {
  readonly pgdata: string;
  readonly source: ArchiveSource;
  readonly identity: () => Promise<ClusterIdentity>;
  readonly alert?: ((message: string) => void) | undefined;
  /** Ends everything. */
  readonly signal: AbortSignal;
}

export interface UploadCounts {
  readonly files: number;
  readonly failed: number;
  readonly plainBytes: number;
  readonly storedBytes: number;
  readonly repaired: number;
  readonly running: number;
  /** Stored, and not asked for yet. */
  readonly ahead: number;
}

/** The uploads of one agent: those PostgreSQL waits for, and those it will ask for next. */
export interface Uploads {
  /**
   * Resolves when the file, as it is now, is whole and durable in the repository. An upload that `signal` stops
   * waiting for goes on.
   *
   * @returns `ahead`: it was stored before it was asked for
   * @throws BackupError as `pushWal`; never the failure of a try that began before this question (A5)
   */
  ensure(file: WalFile, signal: AbortSignal): Promise<{ readonly ahead: boolean }>;
  counts(): UploadCounts;
  /** Resolves when nothing runs any more. */
  settled(): Promise<void>;
}

/** A slow line needs longer for a segment than PostgreSQL waits: it asks again, and the upload goes on meanwhile. */
const UPLOAD_WITHIN_MS = 10 * 60_000;
/** How far ahead of PostgreSQL's questions, in files for each parallel upload. */
const AHEAD_PER_UPLOAD = 4;
/** Answered files are remembered this long (in files): PostgreSQL asks again when an answer was lost. */
const REMEMBERED_ANSWERS = 64;

export function createUploads(ports: UploadsPorts): Uploads {
  return new WalUploads(ports);
}

interface Stored {
  readonly sha256: string;
  asked: boolean;
}

class WalUploads implements Uploads {
  readonly #ports: UploadsPorts;
  readonly #pgWalDirectory: string;
  readonly #running = new Map<string, Promise<PushedWal>>();
  /** What this process stored in the present target, by name; the bytes are compared again when PostgreSQL asks. */
  readonly #stored = new Map<string, Stored>();
  /** Files whose upload ahead failed: left alone until PostgreSQL asks for the next file. */
  readonly #postponed = new Set<string>();
  readonly #totals = { files: 0, failed: 0, plainBytes: 0, storedBytes: 0, repaired: 0 };
  #target: ArchiveTarget | undefined;
  /** What is known of each target; of one that was left, an upload may still be learning. */
  readonly #memories = new WeakMap<ArchiveTarget, ArchiveMemory>();
  #filling = false;

  constructor(ports: UploadsPorts) {
    this.#ports = ports;
    this.#pgWalDirectory = join(ports.pgdata, 'pg_wal');
  }

  async ensure(file: WalFile, signal: AbortSignal): Promise<{ ahead: boolean }> {
    this.#postponed.clear();
    for (;;) {
      const target = await unlessAborted(this.#openTarget(), signal);
      const stored = this.#stored.get(file.name);
      if (stored) {
        const ahead = !stored.asked;
        if (await this.#isStillEqual(file, stored, signal)) return { ahead };
      }
      const running = this.#running.get(file.name);
      if (!running) {
        // begun after the question: what it reads is what PostgreSQL asks about
        const upload = this.#upload(file, target);
        void this.#uploadAhead();
        await unlessAborted(upload, signal);
        this.#markAsked(file.name);
        return { ahead: false };
      }
      // its success is checked like any other that came before the question; its failure is not ours
      await unlessAborted(running.then(ignore, ignore), signal);
    }
  }

  counts(): UploadCounts {
    return { ...this.#totals, running: this.#running.size, ahead: this.#countAhead() };
  }

  async settled(): Promise<void> {
    while (this.#running.size > 0) await Promise.allSettled(this.#running.values());
  }

  async #openTarget(): Promise<ArchiveTarget> {
    const target = await this.#ports.source.current();
    if (target !== this.#target) {
      this.#target = target;
      this.#stored.clear();
    }
    return target;
  }

  async #isStillEqual(file: WalFile, stored: Stored, signal: AbortSignal): Promise<boolean> {
    if ((await hashWalFile(this.#pgWalDirectory, file, { signal })) === stored.sha256) {
      this.#markAsked(file.name);
      void this.#uploadAhead();
      return true;
    }
    this.#stored.delete(file.name);
    return false;
  }

  #markAsked(name: string): void {
    const stored = this.#stored.get(name);
    if (!stored) return;
    stored.asked = true;
    const asked = [...this.#stored].filter(([, entry]) => entry.asked);
    for (const [old] of asked.slice(0, Math.max(0, asked.length - REMEMBERED_ANSWERS)))
      this.#stored.delete(old);
  }

  #upload(file: WalFile, target: ArchiveTarget): Promise<PushedWal> {
    const memory = this.#memories.get(target) ?? createArchiveMemory();
    this.#memories.set(target, memory);
    const ports = {
      ...target.storage,
      repository: () => Promise.resolve(target.repository),
      pgWalDirectory: this.#pgWalDirectory,
      identity: this.#ports.identity,
      memory,
      deadlineMs: UPLOAD_WITHIN_MS,
      alert: this.#ports.alert,
    };
    const upload = pushWal(ports, file.name, { signal: this.#ports.signal })
      .then(
        (pushed) => this.#succeeded(file, target, pushed),
        (error: unknown) => this.#failed(file, error),
      )
      .finally(() => this.#running.delete(file.name));
    this.#running.set(file.name, upload);
    upload.then(() => this.#uploadAhead(), ignore);
    return upload;
  }

  #succeeded(file: WalFile, target: ArchiveTarget, pushed: PushedWal): PushedWal {
    // the manifest may have changed meanwhile: stored there says nothing of here
    if (target === this.#target) this.#stored.set(file.name, { sha256: pushed.sha256, asked: false });
    this.#totals.files += 1;
    if (pushed.outcome === 'repaired') this.#totals.repaired += 1;
    this.#totals.plainBytes += pushed.plainBytes;
    this.#totals.storedBytes += pushed.storedBytes;
    return pushed;
  }

  #failed(file: WalFile, error: unknown): never {
    this.#totals.failed += 1;
    this.#postponed.add(file.name);
    if (isBackupError(error, 'access-denied', 'secret-missing')) this.#ports.source.forget();
    throw error;
  }

  /** Starts what PostgreSQL will ask for next. It stops at the first failure: nothing passes an obstacle. */
  async #uploadAhead(): Promise<void> {
    if (this.#filling) return;
    this.#filling = true;
    try {
      const { ready } = await readArchiveStatus(this.#pgWalDirectory);
      for (const file of ready) {
        const target = this.#target;
        if (!target || !this.#hasRoom(target)) return;
        if (this.#stored.has(file.name) || this.#running.has(file.name)) continue;
        this.#upload(file, target).catch(ignore);
      }
    } catch {
      // looking ahead is a favour; the question itself gets its own answer
    } finally {
      this.#filling = false;
    }
  }

  #hasRoom(target: ArchiveTarget): boolean {
    return (
      !this.#ports.signal.aborted &&
      this.#postponed.size === 0 &&
      this.#running.size < target.maxParallel &&
      this.#countAhead() < target.maxParallel * AHEAD_PER_UPLOAD
    );
  }

  #countAhead(): number {
    return [...this.#stored.values()].filter(({ asked }) => !asked).length;
  }
}

function ignore(): void {}
