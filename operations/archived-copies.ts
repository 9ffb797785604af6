import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import type { Repository } from '../repository/repository.ts';
import { writeDigest, type DatedObject } from '../repository/wal-digest.ts';
import { findWal, readWalCopy, recordedDigest, type WalObject } from '../repository/wal.ts';
import { digestOfFile, replaceWal, type WalStorage } from './store-wal.ts';
import type { ReadWalFile } from './wal-file.ts';

export interface ArchivedCopiesPorts {
  readonly repository: Repository;
  readonly storage: WalStorage;
  readonly signal: AbortSignal;
  /** Told of what was damaged and was set right. */
  readonly alert?: ((message: string) => void) | undefined;
  /** Told what is being done, for the message when time runs out. */
  readonly onStage: (stage: string) => void;
}

/**
 * What a copy that may stay is: `equal` · `unrecorded`: equal, and nothing that can be read is recorded of it ·
 * `misrecorded`: equal, and recorded with another hash · `damaged`: recorded with the hash of this file, whose bytes it has no more.
 */
type Verdict = 'equal' | 'unrecorded' | 'misrecorded' | 'damaged';

const LARGEST_TEXT_BYTES = 4 << 20;

/**
 * What the archive has already under the name of a file that is to be archived: compared with the file, and set right
 * where that may be (A2, A3).
 */
export class ArchivedCopies {
  readonly #ports: ArchivedCopiesPorts;

  constructor(ports: ArchivedCopiesPorts) {
    this.#ports = ports;
  }

  /**
   * Every copy is judged before one is touched: a reader may take any of them, and one that holds other bytes forbids
   * everything.
   *
   * @throws BackupError `wal-conflict`, or `object-damaged` when nothing shows that a copy was of this file
   */
  async settle(copies: readonly WalObject[], read: ReadWalFile): Promise<'already-archived' | 'repaired'> {
    const { repository, signal } = this.#ports;
    const judged: { readonly copy: WalObject; readonly verdict: Verdict }[] = [];
    for (const copy of copies) {
      this.#ports.onStage(`comparing with ${copy.key}`);
      judged.push({ copy, verdict: await this.#judge(copy, read) });
    }
    for (const { copy, verdict } of judged) {
      // A1: whoever stored it may have been killed, or be at work, between "visible" and "durable"
      if (verdict !== 'damaged') await repository.store.makeDurable?.(copy.key, { signal });
      if (verdict === 'unrecorded') await this.record(copy, read);
      if (verdict === 'damaged') await this.#replace(copy, read);
      if (verdict === 'misrecorded') await this.#recordAnew(copy, read);
    }
    return judged.some(({ verdict }) => verdict === 'damaged') ? 'repaired' : 'already-archived';
  }

  async #judge(copy: WalObject, read: ReadWalFile): Promise<Verdict> {
    const { repository, signal } = this.#ports;
    const expectedBytes = read.bytes.length;
    const isLarger = copy.codec === 'none' && copy.sizeBytes > expectedBytes;
    const { plain, recorded } = isLarger
      ? { plain: undefined, recorded: await recordedDigest(repository, copy, signal) }
      : // one more than expected, so that a longer text is a conflict and not a bomb
        await readWalCopy(repository, copy, Math.max(expectedBytes + 1, LARGEST_TEXT_BYTES), signal);
    if (plain instanceof Uint8Array && Buffer.compare(plain, read.bytes) === 0) {
      // it is archived, whatever becomes of a record that can't be read: that must not hold up WAL
      if (recorded === undefined || recorded instanceof BackupError) return 'unrecorded';
      return recorded.sha256 === read.sha256 ? 'equal' : 'misrecorded';
    }
    if (recorded instanceof BackupError) throw recorded;
    if (recorded?.sha256 === read.sha256) return 'damaged';
    if (!(plain instanceof BackupError)) {
      throw new BackupError(
        'wal-conflict',
        `${copy.fileName}: the archive holds other bytes under this name (${repository.url}, ${copy.key})`,
      );
    }
    throw new BackupError('object-damaged', `${copy.key} in the archive can't be read: ${plain.message}`, {
      cause: plain,
      hint: 'it was left as it is: look at it, move it away, and PostgreSQL will archive the file again',
    });
  }

  /**
   * A3's one rewrite: the copy has not the bytes that were recorded with it, and those are the bytes of this file. Only
   * they can come here, from whatever host, so that it does not matter who is first.
   */
  async #replace(copy: WalObject, read: ReadWalFile): Promise<void> {
    this.#ports.onStage(`replacing ${copy.key}, which is damaged`);
    await this.#put(copy, read, `${copy.key} is damaged in the archive`);
    const { repository, signal } = this.#ports;
    const now = (await findWal(repository, copy.fileName, signal)).find(({ key }) => key === copy.key);
    if (!now || (await this.#judge(now, read)) === 'damaged')
      throw new BackupError('store-unavailable', `${copy.key} was stored again and still is damaged`);
    this.#ports.alert?.(`${copy.key} was damaged in the archive and was replaced by what pg_wal has`);
  }

  /** The bytes are right and the record is not: nobody could fetch them. */
  async #recordAnew(copy: WalObject, read: ReadWalFile): Promise<void> {
    this.#ports.onStage(`recording the hash of ${copy.key} anew`);
    const { repository, signal } = this.#ports;
    if (repository.store.features.metadata)
      await this.#put(copy, read, `${copy.key} is recorded with a wrong hash`);
    else await writeDigest(repository, copy, digestOfFile(read), signal);
    this.#ports.alert?.(`${copy.key} was whole, but recorded with another hash; that was corrected`);
  }

  async #put(copy: WalObject, read: ReadWalFile, why: string): Promise<void> {
    const { repository, storage, signal } = this.#ports;
    try {
      await replaceWal(repository, copy, read, { storage, signal });
    } catch (error) {
      if (!isBackupError(error, 'access-denied')) throw error;
      throw new BackupError('object-damaged', `${why}, and this key may not replace it: ${error.message}`, {
        cause: error,
        hint: 'it was left as it is: move it away, and PostgreSQL will archive the file again',
      });
    }
  }

  /**
   * Records the hash of what is archived, where it does not travel with it. It only adds to that: what it fails with must
   * not hold up the WAL that comes next.
   */
  async record(object: DatedObject, read: ReadWalFile): Promise<void> {
    const { repository, signal, alert, onStage } = this.#ports;
    const { key } = object;
    onStage(`recording the hash of ${key}`);
    try {
      await writeDigest(repository, object, digestOfFile(read), signal);
    } catch (error) {
      signal.throwIfAborted();
      alert?.(`${key} is archived, but its hash could not be recorded: ${messageOf(error)}`);
    }
  }
}
