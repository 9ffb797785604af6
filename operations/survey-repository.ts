import { isSegmentName } from '../core/segment.ts';
import {
  basePrefix,
  isBackupId,
  looksLikePart,
  ownKey,
  parsePartName,
  walPrefix,
} from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { parseWalObject } from '../repository/wal-object.ts';
import type { StoredObject } from '../stores/object-store.ts';

/** What an object of a repository is, by its key alone. */
export type ObjectKind =
  /** Of a backup: its record, a tar, an annotation. */
  | 'backup'
  | 'wal'
  | 'history'
  /** Below `walkeep/`. */
  | 'own'
  /** Lies where nothing of that name belongs. */
  | 'stranger'
  /** A stranger in a backup's folder that makes barman-cloud's restore fail. */
  | 'hazard';

export interface Amount {
  count: number;
  bytes: number;
}

/** One timeline of the archive. */
export interface TimelineAmount extends Amount {
  readonly timeline: number;
  /** Of whole segments; absent where there are others only. */
  first?: string;
  last?: string;
}

/** One folder of `base/`. */
export interface FolderAmount extends Amount {
  readonly folder: string;
  hasRecord: boolean;
}

/** All that lies in a repository, counted in one listing. */
export interface Survey {
  /** In the order of ids. */
  readonly backups: readonly FolderAmount[];
  readonly timelines: readonly TimelineAmount[];
  readonly histories: Amount & { readonly timelines: readonly number[] };
  /** By the first folder below `walkeep/`; a file in it by its name. */
  readonly own: ReadonlyMap<string, Amount>;
  /** Objects that no tool of ours or barman's wrote there; some of their keys, below the server's folder. */
  readonly strangers: Amount & { readonly keys: readonly string[] };
  readonly hazards: Amount & { readonly keys: readonly string[] };
  /** WAL files of no byte at all, which nobody wrote so. */
  readonly emptyWal: Amount & { readonly keys: readonly string[] };
  /** Names of WAL files that several objects hold; some of them. */
  readonly secondCopies: { readonly count: number; readonly names: readonly string[] };
}

const MOST_KEYS = 20;

export function kindOf(r: Repository, object: StoredObject): ObjectKind {
  const { key } = object;
  if (key.startsWith(ownPrefix(r))) return 'own';
  if (key.startsWith(walPrefix(r.server))) {
    const wal = parseWalObject(r, object);
    if (!wal) return 'stranger';
    return wal.file.kind === 'history' ? 'history' : 'wal';
  }
  const base = basePrefix(r.server);
  if (!key.startsWith(base)) return 'stranger';
  const [folder = '', ...rest] = key.slice(base.length).split('/');
  const name = rest.join('/');
  if (name === 'backup.info' || name.startsWith('annotations/') || parsePartName(name)) return 'backup';
  // of a snapshot
  if (name === 'backup_label') return 'backup';
  const trips = looksLikePart(name) || /^(?:data|\d+)_/.test(name);
  return trips && isBackupId(folder) ? 'hazard' : 'stranger';
}

function ownPrefix({ server }: Repository): string {
  return ownKey(server, 'x').slice(0, -1);
}

/**
 * Counts all objects that begin with `prefix` in one listing. Memory grows with backups and timelines, not with objects.
 *
 * @param prefix below the server's folder, such as `wals/`; all without one
 * @param onObject told of each object as it comes
 */
export async function surveyRepository(
  r: Repository,
  signal: AbortSignal,
  {
    prefix = '',
    onObject,
  }: {
    readonly prefix?: string;
    readonly onObject?: (object: StoredObject, kind: ObjectKind) => void | Promise<void>;
  } = {},
): Promise<Survey> {
  const count = new Count(r);
  for await (const object of r.store.list(`${r.server}/${prefix}`, { signal })) {
    const kind = kindOf(r, object);
    count.add(object, kind);
    await onObject?.(object, kind);
  }
  return count.survey();
}

class Count {
  readonly #r: Repository;
  readonly #backups = new Map<string, FolderAmount>();
  readonly #timelines = new Map<number, TimelineAmount>();
  readonly #histories = { count: 0, bytes: 0, timelines: new Set<number>() };
  readonly #own = new Map<string, Amount>();
  readonly #strangers = { count: 0, bytes: 0, keys: [] as string[] };
  readonly #hazards = { count: 0, bytes: 0, keys: [] as string[] };
  readonly #empty = { count: 0, bytes: 0, keys: [] as string[] };
  readonly #second = { count: 0, names: [] as string[] };
  /** Names of the file before which all others of the same beginning have come: a listing is in order. */
  #segment = '';
  #names = new Set<string>();

  constructor(r: Repository) {
    this.#r = r;
  }

  add(object: StoredObject, kind: ObjectKind): void {
    const { key, sizeBytes } = object;
    switch (kind) {
      case 'own': {
        const [name = ''] = key.slice(ownPrefix(this.#r).length).split('/');
        return addTo(this.#own, name, sizeBytes, { count: 0, bytes: 0 });
      }
      case 'backup': {
        const [folder = '', name] = key.slice(basePrefix(this.#r.server).length).split('/');
        addTo(this.#backups, folder, sizeBytes, { folder, count: 0, bytes: 0, hasRecord: false });
        const amount = this.#backups.get(folder);
        if (amount && name === 'backup.info') amount.hasRecord = true;
        return;
      }
      case 'wal':
      case 'history':
        return this.#addWal(object);
      case 'stranger':
        return addKey(this.#strangers, object, this.#r);
      case 'hazard':
        return addKey(this.#hazards, object, this.#r);
    }
  }

  #addWal(object: StoredObject): void {
    const wal = parseWalObject(this.#r, object);
    if (!wal) return;
    const { fileName, file, sizeBytes } = wal;
    this.#lookForSecond(fileName);
    if (sizeBytes === 0) addKey(this.#empty, object, this.#r);
    if (file.kind === 'history') {
      this.#histories.count += 1;
      this.#histories.bytes += sizeBytes;
      this.#histories.timelines.add(file.timeline);
      return;
    }
    const timeline = Number.parseInt(fileName.slice(0, 8), 16);
    addTo<TimelineAmount, number>(this.#timelines, timeline, sizeBytes, { timeline, count: 0, bytes: 0 });
    const amount = this.#timelines.get(timeline);
    if (!amount || !isSegmentName(fileName)) return;
    amount.first ??= fileName;
    amount.last = fileName;
  }

  #lookForSecond(fileName: string): void {
    const segment = fileName.slice(0, 24);
    if (segment !== this.#segment) this.#names = new Set();
    this.#segment = segment;
    if (!this.#names.has(fileName)) {
      this.#names.add(fileName);
      return;
    }
    this.#second.count += 1;
    if (this.#second.names.length < MOST_KEYS && !this.#second.names.includes(fileName))
      this.#second.names.push(fileName);
  }

  survey(): Survey {
    return {
      backups: [...this.#backups.values()],
      timelines: [...this.#timelines.values()].toSorted((a, b) => a.timeline - b.timeline),
      histories: {
        ...this.#histories,
        timelines: [...this.#histories.timelines].toSorted((a, b) => a - b),
      },
      own: this.#own,
      strangers: this.#strangers,
      hazards: this.#hazards,
      emptyWal: this.#empty,
      secondCopies: this.#second,
    };
  }
}

function addTo<A extends Amount, K>(amounts: Map<K, A>, name: K, bytes: number, empty: A): void {
  const amount = amounts.get(name) ?? empty;
  amounts.set(name, amount);
  amount.count += 1;
  amount.bytes += bytes;
}

function addKey(
  amount: Amount & { readonly keys: string[] },
  { key, sizeBytes }: StoredObject,
  { server }: Repository,
): void {
  amount.count += 1;
  amount.bytes += sizeBytes;
  if (amount.keys.length < MOST_KEYS) amount.keys.push(key.slice(server.length + 1));
}

/** Whether nothing was found. */
export function isEmpty(survey: Survey): boolean {
  return countOf(survey) === 0;
}

/** All objects of a survey. */
export function countOf({ backups, timelines, histories, own, strangers, hazards }: Survey): number {
  return total([...backups, ...timelines, histories, ...own.values(), strangers, hazards]).count;
}

/** All of one kind together. */
export function total(amounts: Iterable<Amount>): Amount {
  const sum = { count: 0, bytes: 0 };
  for (const { count, bytes } of amounts) {
    sum.count += count;
    sum.bytes += bytes;
  }
  return sum;
}
