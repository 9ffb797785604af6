import { readdir } from 'node:fs/promises';
import type { ArchiveDamage, WalRepair } from '../core/audit.ts';
import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import {
  nextSegment,
  parseWalFileName,
  segmentNumber,
  timelineOf,
  type SegmentName,
  type WalFile,
} from '../core/segment.ts';
import { recordsEnd } from '../postgres/wal-end.ts';
import {
  identifyHistory,
  identifySegment,
  requireFittingTimeline,
  requireOwnWal,
  type ClusterIdentity,
} from '../postgres/wal-identity.ts';
import { claimOwner } from '../repository/owner.ts';
import { parseWalHeader } from '../postgres/wal-page.ts';
import type { Repository } from '../repository/repository.ts';
import { findWal, readHistories, type WalObject } from '../repository/wal.ts';
import { readArchiveStatus } from './archive-status.ts';
import { pushWal, type ArchivePorts } from './archive-wal.ts';
import { contradictsItself, inspectWal } from './inspect-wal.ts';
import { replaceWal } from './store-wal.ts';
import { readWalFile, type ReadWalFile } from './wal-file.ts';

export interface RepairPorts extends ArchivePorts {
  /** Of the instance whose `pg_wal` this is, for the report. */
  readonly instance: string;
}

export interface RepairOptions {
  readonly signal: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

/**
 * Sends again, from one instance's `pg_wal`, what an audit found missing or damaged. `pg_wal` is only read (A8). A file
 * is sent when it is finished, whole, and of this cluster. What is missing is created as `wal-push` does it; a stored
 * copy is replaced only where it contradicts itself, and never where it is WAL of another cluster or merely other
 * bytes (A3).
 *
 * @returns what became of the files that are here; those that are not are not named
 * @throws BackupError when the repository does not answer; a file that can't be sent is an outcome
 */
export async function repairWal(
  ports: RepairPorts,
  damages: readonly ArchiveDamage[],
  { signal, onProgress }: RepairOptions,
): Promise<WalRepair[]> {
  const names = await namesIn(ports.pgWalDirectory);
  const here = names.flatMap((name) => {
    const damage = damages.find((one) => one.repair !== 'repaired' && covers(one, name));
    const file = parseWalFileName(name);
    return damage && file ? [{ file, damage }] : [];
  });
  if (here.length === 0) return [];
  const { ready } = await readArchiveStatus(ports.pgWalDirectory);
  const repair = new Repair(ports, new Set(names), new Set(ready.map(({ name }) => name)), signal);
  const done: { readonly damage: ArchiveDamage; readonly repair: WalRepair }[] = [];
  for (const [index, { file, damage }] of here.entries()) {
    signal.throwIfAborted();
    onProgress?.(index, here.length);
    const outcome = await repair.send(file, damage.kind);
    const about = { kind: damage.kind, ...spanOf(file), instance: ports.instance };
    if (outcome) done.push({ damage, repair: { ...outcome, ...about } });
  }
  return joined(done);
}

type Outcome = Pick<WalRepair, 'outcome' | 'detail'>;

/** A damaged object whose right bytes are here. */
class Repair {
  readonly #ports: RepairPorts;
  readonly #names: ReadonlySet<string>;
  readonly #ready: ReadonlySet<string>;
  readonly #signal: AbortSignal;

  constructor(
    ports: RepairPorts,
    names: ReadonlySet<string>,
    ready: ReadonlySet<string>,
    signal: AbortSignal,
  ) {
    this.#ports = ports;
    this.#names = names;
    this.#ready = ready;
    this.#signal = signal;
  }

  /** @returns `undefined` when PostgreSQL has removed the file meanwhile */
  async send(file: WalFile, kind: ArchiveDamage['kind']): Promise<Outcome | undefined> {
    // PostgreSQL will have it archived by itself; nothing was lost.
    if (kind === 'missing' && this.#ready.has(file.name)) return { outcome: 'pending' };
    try {
      return await (kind === 'missing' ? this.#sendMissing(file) : this.#replaceDamaged(file));
    } catch (error) {
      this.#signal.throwIfAborted();
      if (isBackupError(error, 'wal-missing')) return undefined;
      if (!isBackupError(error) || error.retryable) throw error;
      return { outcome: 'refused', detail: error.message };
    }
  }

  async #sendMissing(file: WalFile): Promise<Outcome> {
    await this.#requireWhole(file);
    const { outcome } = await pushWal(this.#ports, file.name, { signal: this.#signal });
    if (outcome === 'archived') this.#alert(`${file.name} was missing from the archive and was sent again`);
    return { outcome: 'repaired' };
  }

  async #replaceDamaged(file: WalFile): Promise<Outcome> {
    const repository = await this.#ports.repository();
    const local = await this.#requireWhole(file);
    const histories = await readHistories(repository, this.#signal, () => undefined);
    const owner = await this.#owner(repository);
    if (file.kind === 'segment') {
      const header = identifySegment(file, local.bytes);
      requireOwnWal(file.name, header, owner, repository.url);
      requireFittingTimeline(file, header, histories.get(timelineOf(file.segment)));
    }
    const isFollowed = file.kind === 'segment' && (await this.#isFollowed(repository, file.segment, owner));
    const inspect = (copy: WalObject) =>
      inspectWal(repository, copy, { owner, histories, isFollowed, signal: this.#signal });
    const broken: WalObject[] = [];
    // All of them before the first is touched: one that is whole and differs forbids everything.
    for (const copy of await findWal(repository, file.name, this.#signal)) {
      const { fault, sha256, recorded } = await inspect(copy);
      if (fault === undefined && sha256 !== local.sha256) {
        const detail = `${copy.key} is whole, and has other bytes than this instance; it was left as it is`;
        return { outcome: 'refused', detail };
      }
      if (fault && !contradictsItself(fault.kind) && fault.kind !== 'gone')
        return { outcome: 'refused', detail: `${copy.key} was left as it is: ${fault.detail}` };
      // What was archived under this name are other bytes; unless these are what is stored, and only the record is wrong.
      if (fault && recorded && recorded.sha256 !== local.sha256 && sha256 !== local.sha256) {
        const detail = `${copy.key} was left as it is: ${fault.detail}; it was archived with other bytes than this instance has`;
        return { outcome: 'refused', detail };
      }
      if (fault && fault.kind !== 'gone') broken.push(copy);
    }
    for (const copy of broken) {
      await replaceWal(repository, copy, local, { storage: this.#ports, signal: this.#signal });
      const { fault } = await inspect(copy);
      if (fault)
        throw new BackupError(
          'store-unavailable',
          `${copy.key} was stored again and still is damaged: ${fault.detail}`,
        );
      this.#alert(`${copy.key} was damaged in the archive and was replaced`);
    }
    return broken.length > 0 ? { outcome: 'repaired' } : this.#sendMissing(file);
  }

  /**
   * The bytes of a file that PostgreSQL has finished. The one it writes at this moment has the right name and header
   * too: records that go to the end of a segment are what tells them apart, on a standby as well.
   */
  async #requireWhole(file: WalFile): Promise<ReadWalFile> {
    const read = await readWalFile(this.#ports.pgWalDirectory, file, { signal: this.#signal });
    if (file.kind === 'history') {
      identifyHistory(file, read.bytes);
      return read;
    }
    if (file.kind !== 'segment') throw unfinished(file, 'only segments and histories are sent again');
    const identity = await this.#ports.identity();
    requireOwnWal(
      file.name,
      identifySegment(file, read.bytes),
      identity,
      `the data directory of ${this.#ports.instance}`,
    );
    const end = recordsEnd(read.bytes);
    if (end === 'early')
      throw unfinished(file, 'its records end before it does: it is being written, or was never finished');
    const isFinished = end === 'end' || (await this.#isFollowedHere(file.segment, identity));
    if (!isFinished) throw unfinished(file, 'nothing shows that PostgreSQL has finished it');
    return read;
  }

  /** Whether PostgreSQL has begun the next one: of files it keeps for later use the header has another address. */
  async #isFollowedHere(segment: SegmentName, { segmentSize }: ClusterIdentity): Promise<boolean> {
    const name = nextSegment(segment, segmentSize);
    if (!this.#names.has(name)) return false;
    const next = { kind: 'segment', name, segment: name } as const;
    try {
      identifySegment(
        next,
        (await readWalFile(this.#ports.pgWalDirectory, next, { signal: this.#signal })).bytes,
      );
      return true;
    } catch (error) {
      if (!isBackupError(error, 'format-invalid', 'wal-missing')) throw error;
      return false;
    }
  }

  /** Whether the next segment is in the archive or here: then the damaged one is to have records to its end. */
  async #isFollowed(
    repository: Repository,
    segment: SegmentName,
    { segmentSize }: ClusterIdentity,
  ): Promise<boolean> {
    const next = nextSegment(segment, segmentSize);
    return this.#names.has(next) || (await findWal(repository, next, this.#signal)).length > 0;
  }

  async #owner(repository: Repository): Promise<ClusterIdentity> {
    const identity = await this.#ports.identity();
    return claimOwner(repository, identity, this.#signal, (head) => parseWalHeader(head));
  }

  #alert(message: string): void {
    this.#ports.alert?.(message);
  }
}

function unfinished(file: WalFile, why: string): BackupError {
  return new BackupError('format-invalid', `${file.name} was not sent: ${why}`);
}

async function namesIn(pgWalDirectory: string): Promise<string[]> {
  try {
    return (await readdir(pgWalDirectory)).toSorted();
  } catch (error) {
    throw new BackupError('config-invalid', `cannot read ${pgWalDirectory}: ${messageOf(error)}`, {
      cause: error,
      hint: 'give the data directory of PostgreSQL, and run walkeep as its owner',
    });
  }
}

/** Names of segments compare as their numbers do; other files are named one by one. */
function covers({ first, last }: ArchiveDamage, name: string): boolean {
  return (
    name.length === first.length && name.slice(0, 8) === first.slice(0, 8) && first <= name && name <= last
  );
}

function spanOf(file: WalFile): Pick<WalRepair, 'timeline' | 'first' | 'last' | 'count'> {
  const timeline = file.kind === 'history' ? file.timeline : timelineOf(file.segment);
  return { timeline, first: file.name, last: file.name, count: 1 };
}

/** Consecutive segments of one damage with one outcome as one entry, so that a report of many stays short. */
function joined(
  done: readonly { readonly damage: ArchiveDamage; readonly repair: WalRepair }[],
): WalRepair[] {
  const result: WalRepair[] = [];
  for (const [index, { damage, repair }] of done.entries()) {
    const before = result.at(-1);
    const isNext =
      before !== undefined &&
      done[index - 1]?.damage === damage &&
      before.outcome === repair.outcome &&
      before.detail === repair.detail &&
      follows(before.last, repair.first);
    if (isNext) result[result.length - 1] = { ...before, last: repair.last, count: before.count + 1 };
    else result.push(repair);
  }
  return result;
}

/** Of any segment size: the next name, or the first of the next log. */
function follows(name: string, next: string): boolean {
  const [a, b] = [parseWalFileName(name), parseWalFileName(next)];
  if (a?.kind !== 'segment' || b?.kind !== 'segment' || timelineOf(a.segment) !== timelineOf(b.segment))
    return false;
  const size = 1 << 20;
  try {
    return segmentNumber(b.segment, size) === segmentNumber(a.segment, size) + 1n;
  } catch {
    return false;
  }
}
