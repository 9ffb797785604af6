import type { Metadata } from './metadata.ts';
import type { ObjectLock } from '../core/object-lock.ts';

/** An object as a store lists it. */
export interface StoredObject {
  readonly key: string;
  readonly sizeBytes: number;
  /** The store's own time, not the writer's. */
  readonly modifiedAt: Date;
  /**
   * What `lockOf` would say, where a listing tells it (Google), so that nobody has to ask for each object; `none`: nothing.
   * Absent: it has to be asked for.
   */
  readonly lock?: ObjectLock | 'none';
}

/** An object that was asked for by its key. */
export interface FoundObject extends StoredObject {
  /** `PutOptions.metadata`, and what else the store keeps as such; empty where `features.metadata` is not. */
  readonly metadata: Metadata;
}

/** The bytes of an object, once, and what was stored with them. */
export interface ObjectBody extends AsyncIterable<Uint8Array> {
  /**
   * As `FoundObject.metadata`, of the version whose bytes these are. It has come with the answer that began the body;
   * of Google alone, whose answer lacks it, it is asked for here.
   *
   * @throws BackupError `object-missing` when that version is gone, and what the store says
   */
  metadata(): Promise<Metadata>;
}

/** An upload that was begun and neither ended nor given up; no listing of objects shows it. */
export interface UnfinishedUpload {
  readonly key: string;
  readonly id: string;
  /** The store's own time. */
  readonly startedAt: Date;
}

export interface PutOptions {
  readonly signal: AbortSignal;
  /**
   * Store only where nothing is: an existing object is never replaced, and `already-exists` is thrown. Only where
   * `features.ifAbsent`; elsewhere it is a look followed by a put, which does not fence two writers.
   */
  readonly ifAbsent?: boolean;
  /**
   * Exact size of the body in bytes when it is known; a body that turns out otherwise is refused (`object-damaged`)
   * and nothing is stored.
   */
  readonly sizeBytes?: number;
  /** About how many bytes come at most, where `sizeBytes` is not known: a store chooses the size of its parts by it. */
  readonly expectedBytes?: number;
  /** Encryption at rest, asked of stores that do it; others store as they do anyway. */
  readonly encryption?: 'AES256' | 'aws:kms';
  /** Tags of the object, where the store has them. */
  readonly tags?: Readonly<Record<string, string>>;
  /** Kept with the object and given back by `head` and `get`, where `features.metadata`; others store without it. */
  readonly metadata?: Metadata;
}

/** What a put has stored. */
export interface Put {
  readonly sizeBytes: number;
  /** As `StoredObject.modifiedAt`, of just this body, whoever replaced it meanwhile; absent where the answer lacks it. */
  readonly modifiedAt?: Date;
}

/** What was found out of a store. `unknown`: it would not say, or nobody asked. */
export type Trait = 'yes' | 'no' | 'unknown';

/** How a store behaves beyond its protocol's promises (E3). */
export interface StoreTraits {
  /** Whether an upload in parts that is to create is refused at its end where something is. */
  readonly multipartIfAbsent: Trait;
  /** Whether the store refuses bytes that do not have the checksum that goes with them. */
  readonly checksums: Trait;
  /** Whether many objects are deleted by one request. */
  readonly bulkDelete: Trait;
  /** Whether a listing comes in pages of the wanted size that go on where the one before ended. */
  readonly listPaging: Trait;
  /** Whether a listing begins behind a key when asked to. */
  readonly listStart: Trait;
  /** Whether what is replaced or deleted stays as an older version. */
  readonly versioning: 'on' | 'off' | 'suspended' | 'unknown';
  /** Whether new objects are locked by default; `on` also where only the store knows for how long. */
  readonly objectLock: 'on' | 'off' | 'unknown';
}

/** How a store's locks are asked for: `ObjectStore.lockOf` and `hasLocks`. */
export interface LockReader {
  lockOf(key: string, signal: AbortSignal): Promise<ObjectLock | undefined>;
  hasLocks(signal: AbortSignal): Promise<boolean>;
}

/** Where bytes are kept. One adapter per provider; `test/stores/conformance.ts` is the definition of correct. */
export interface ObjectStore {
  /** For messages: `s3://bucket/prefix`, `file:///srv/backups`. Never holds a credential. */
  readonly url: string;
  readonly features: {
    readonly ifAbsent: boolean;
    /**
     * The protocol has the condition, but there are servers that pass over it: to be believed when it was tried, for bodies
     * that go in one request and for larger ones.
     */
    readonly ifAbsentUnproven?: { readonly oneRequestBytes: number };
    readonly metadata: boolean;
  };
  /**
   * Stores the whole of `body`, or nothing; durable when it resolves. A body that throws, an abort and a crash
   * leave no object (and no unfinished upload, where the store lets us remove it).
   *
   * @throws BackupError `already-exists` | `store-unavailable` | `store-full` | `access-denied` | `bucket-missing`
   */
  put(key: string, body: Uint8Array | AsyncIterable<Uint8Array>, options: PutOptions): Promise<Put>;
  /**
   * The bytes of an object. The iteration throws `store-unavailable` when fewer bytes come than the store announced.
   * Of a `range` comes what the object has of it, which may be nothing.
   *
   * @returns `undefined` when the store says, without any error, that there is no such object
   */
  get(
    key: string,
    options: {
      readonly signal: AbortSignal;
      readonly range?: { readonly offset: number; readonly length: number };
    },
  ): Promise<ObjectBody | undefined>;
  /** @returns `undefined` when the store says, without any error, that there is no such object */
  head(key: string, options: { readonly signal: AbortSignal }): Promise<FoundObject | undefined>;
  /**
   * Makes what can be seen at `key` durable, where that is not the same: in a directory, whoever put it there may have
   * crashed just before. Absent where all that can be seen is durable.
   */
  makeDurable?(key: string, options: { readonly signal: AbortSignal }): Promise<void>;
  /**
   * Objects whose keys begin with `prefix` (any text, not only whole folders), in byte order of keys.
   * A page that fails makes the iteration throw, never end early.
   */
  list(prefix: string, options: { readonly signal: AbortSignal }): AsyncIterable<StoredObject>;
  /** The folders directly below `prefix` (empty or ending in `/`), each ending in `/`, in byte order. */
  folders(prefix: string, options: { readonly signal: AbortSignal }): AsyncIterable<string>;
  /** Deleting what is not there succeeds. Throws when any key could not be deleted, naming it. */
  delete(keys: readonly string[], options: { readonly signal: AbortSignal }): Promise<void>;
  /**
   * What the store says against deleting an object: retention, a legal hold (D7). Absent where there is no such thing.
   *
   * @returns `undefined` when nothing does, or there is no such object
   */
  lockOf?(key: string, options: { readonly signal: AbortSignal }): Promise<ObjectLock | undefined>;
  /**
   * Whether any object can be locked here at all: `false` saves a question for each. Asked anew every some minutes.
   * Absent: nobody knows without asking for each.
   */
  hasLocks?(options: { readonly signal: AbortSignal }): Promise<boolean>;
  /** Uploads of keys that begin with `prefix`. Absent, as `abandon`, where nothing is left of a put that died. */
  unfinished?(prefix: string, options: { readonly signal: AbortSignal }): AsyncIterable<UnfinishedUpload>;
  /** Removes what such an upload stored. One that is gone already is a success. */
  abandon?(upload: UnfinishedUpload, options: { readonly signal: AbortSignal }): Promise<void>;
  /**
   * What the calls above can't tell of a store, told by its own protocol: tried with objects below `folder` (ending in
   * `/`), which whoever asks removes. What is refused, fails or takes longer than a few seconds is `unknown`: each question has a
   * time of its own, and none is asked again. Absent where nobody asked.
   */
  inquire?(folder: string, options: { readonly signal: AbortSignal }): Promise<StoreTraits>;
  /** Releases connections. */
  close(): Promise<void>;
}
