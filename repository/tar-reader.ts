import { BackupError } from '../core/errors.ts';
import { quoted } from './layout.ts';
import { safeMemberPath } from './member-path.ts';
import {
  decodeName,
  parseDecimal,
  parseHeader,
  parseOldSparse,
  parsePax,
  parsePaxTime,
  sparseRuns,
  type PaxRecords,
  type RawHeader,
  type SparseRun,
} from './tar-header.ts';
import { MAX_SPARSE_RUNS, SparseFile, SparseMapReader, type SparseSink } from './tar-sparse.ts';
import { BLOCK, type TarEntry } from './tar-writer.ts';

/** What a reader tells, in order: `member`, its data in pieces, `memberEnd`; then the next. */
export interface TarHandlers {
  /** Paths are safe, and no part of one is a symbolic link of this tar. `size` counts holes. */
  member(entry: TarEntry): void;
  /** A view of what was given to `write`; it is only valid during the call. */
  data(chunk: Uint8Array): void;
  memberEnd(): void;
  /** Zeros of a sparse file; without this handler they come as `data`. */
  hole?(length: number): void;
  /** A member that is not restored, such as a FIFO, and why. */
  skipped?(path: string, why: string): void;
}

/** What a tar may not exceed (S2). */
export interface TarLimits {
  readonly maxMembers: number;
  /** Of all files together, holes included. */
  readonly maxTotalBytes: number;
  /** Of one file, holes included. */
  readonly maxMemberBytes: number;
}

/**
 * What no data directory has, on any host: a relation of 2^32 blocks of 32 KiB in one file, and eight of them. Less than
 * that may be real where it is sparse, or where the file system compresses.
 */
const DEFAULT_LIMITS: TarLimits = {
  maxMembers: 50_000_000,
  maxTotalBytes: 2 ** 50,
  maxMemberBytes: 2 ** 47,
};
/** Names and extensions of one member; also kept in memory: links that later members must not lead through. */
const MAX_EXTENSION_BYTES = 1024 * 1024;
const MAX_SYMLINKS = 100_000;
/** Of what global pax headers say, all together: it stays in memory until the end. */
const MAX_GLOBAL_CHARACTERS = 1024 * 1024;
/** Zeros after the end mark, at most: programs pad to records of up to a few MiB. */
const MAX_TRAILING_BYTES = 16 * 1024 * 1024;
const ZEROS = new Uint8Array(64 * 1024);

type State = 'header' | 'extension' | 'old-sparse' | 'sparse-map' | 'data' | 'padding' | 'end' | 'ended';

/** A pax or GNU header that is about the next member; `data` has room for its whole blocks. */
interface ExtensionHeader {
  readonly flag: string;
  readonly size: number;
  readonly data: Buffer;
  fill: number;
}

/** A member whose header was read, while maps and data of it are still to come. */
interface OpenMember {
  readonly entry: TarEntry;
  readonly runs: SparseRun[] | undefined;
  storedSize: number;
}

/**
 * Reads a tar that is pushed into it in pieces of any size: pax, GNU, ustar and v7, sparse files included. Nothing
 * is buffered but headers. It is stricter than tar programs: every header's checksum counts, the end mark must
 * come, and nothing but zeros may follow.
 *
 * `write` and `finish` throw BackupError `object-damaged` for damaged and hostile tars, and `not-yet` for the few
 * kinds of members that are not read; an error thrown by a handler passes. After either the reader is of no use.
 */
export class TarReader {
  readonly #handlers: TarHandlers;
  readonly #limits: TarLimits;
  readonly #sink: SparseSink;
  #failure: { readonly error: unknown } | undefined;
  #state: State = 'header';
  #position = 0;
  readonly #block = Buffer.alloc(BLOCK);
  #blockFill = 0;
  // of the extension header being read
  #extension: ExtensionHeader | undefined;
  // for the next member
  #pax: PaxRecords | undefined;
  #longName: Buffer | undefined;
  #longLink: Buffer | undefined;
  // for all members
  readonly #globals = new Map<string, string>();
  #globalCharacters = 0;
  readonly #symlinks = new Set<string>();
  #members = 0;
  #totalBytes = 0;
  // of the member being read
  #open: OpenMember | undefined;
  #map: SparseMapReader | undefined;
  #sparse: SparseFile | undefined;
  #skipping = false;
  #left = 0;
  #padding = 0;
  #trailing = 0;

  constructor(handlers: TarHandlers, limits: Partial<TarLimits> = {}) {
    this.#handlers = handlers;
    this.#limits = { ...DEFAULT_LIMITS, ...limits };
    this.#sink = {
      data: (chunk) => handlers.data(chunk),
      hole: (length) => (handlers.hole ? handlers.hole(length) : writeZeros(handlers, length)),
    };
  }

  /** How many members came so far. */
  get members(): number {
    return this.#members;
  }

  write(chunk: Uint8Array): void {
    if (this.#failure) throw this.#failure.error;
    try {
      this.#consume(chunk);
    } catch (error) {
      this.#failure = { error };
      throw error;
    }
  }

  /** Says that no more comes. @throws BackupError `object-damaged` unless the end mark came */
  finish(): void {
    if (this.#failure) throw this.#failure.error;
    if (this.#state !== 'ended')
      throw damaged(`the tar is cut after ${this.#position} bytes: its end mark is missing`);
  }

  #consume(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length) {
      const taken = this.#step(chunk, at);
      at += taken;
      this.#position += taken;
    }
  }

  /** Takes some bytes of `chunk` from `at`. @returns how many, at least one */
  #step(chunk: Uint8Array, at: number): number {
    switch (this.#state) {
      case 'data': {
        const take = Math.min(this.#left, chunk.length - at);
        if (!this.#skipping) this.#emit(chunk.subarray(at, at + take));
        this.#left -= take;
        if (this.#left === 0) this.#endMember();
        return take;
      }
      case 'padding': {
        const take = Math.min(this.#padding, chunk.length - at);
        this.#padding -= take;
        if (this.#padding === 0) this.#state = 'header';
        return take;
      }
      case 'extension':
        return this.#takeExtension(chunk, at);
      case 'ended':
        return this.#takeTrailing(chunk, at);
      case 'header':
      case 'old-sparse':
      case 'sparse-map':
      case 'end':
        return this.#takeBlock(chunk, at);
    }
  }

  #emit(chunk: Uint8Array): void {
    if (this.#sparse) this.#sparse.data(chunk);
    else this.#handlers.data(chunk);
  }

  #takeBlock(chunk: Uint8Array, at: number): number {
    if (this.#blockFill === 0 && chunk.length - at >= BLOCK) {
      this.#onBlock(chunk.subarray(at, at + BLOCK));
      return BLOCK;
    }
    const take = Math.min(BLOCK - this.#blockFill, chunk.length - at);
    this.#block.set(chunk.subarray(at, at + take), this.#blockFill);
    this.#blockFill += take;
    if (this.#blockFill === BLOCK) {
      this.#blockFill = 0;
      this.#onBlock(this.#block);
    }
    return take;
  }

  #onBlock(block: Uint8Array): void {
    if (this.#state === 'old-sparse') return this.#onOldSparse(block);
    if (this.#state === 'sparse-map') return this.#onSparseMap(block);
    const isZero = isAllZero(block);
    if (this.#state === 'end') {
      if (!isZero) throw damaged(`the tar has half an end mark before byte ${this.#position}`);
      this.#state = 'ended';
    } else if (isZero) {
      if (this.#pax || this.#longName || this.#longLink)
        throw damaged('the tar ends after the header of a long name');
      this.#state = 'end';
    } else {
      this.#onHeader(parseHeader(block, this.#position), block);
    }
  }

  #onHeader(header: RawHeader, block: Uint8Array): void {
    const flag = header.typeFlag;
    if (flag === 'x' || flag === 'g' || flag === 'L' || flag === 'K')
      return this.#beginExtension(flag, header.size);
    const runs = flag === 'S' ? parseOldSparse(block, 'header', this.#position) : undefined;
    const member = this.#describe(header, runs);
    this.#pax = this.#longName = this.#longLink = undefined;
    if (member === undefined) return this.#skip();
    this.#open = member;
    if (runs?.more) this.#state = 'old-sparse';
    else if (this.#map) this.#state = 'sparse-map';
    else this.#beginMember();
  }

  #beginExtension(flag: string, size: number): void {
    if (size > MAX_EXTENSION_BYTES) throw damaged(`the tar has a header of ${size} bytes for one member`);
    if (size === 0) return;
    this.#extension = { flag, size, data: Buffer.allocUnsafe(Math.ceil(size / BLOCK) * BLOCK), fill: 0 };
    this.#state = 'extension';
  }

  #takeExtension(chunk: Uint8Array, at: number): number {
    const extension = this.#extension as ExtensionHeader;
    const take = Math.min(extension.data.length - extension.fill, chunk.length - at);
    extension.data.set(chunk.subarray(at, at + take), extension.fill);
    extension.fill += take;
    if (extension.fill === extension.data.length) {
      this.#state = 'header';
      this.#extension = undefined;
      this.#onExtension(extension.flag, extension.data.subarray(0, extension.size));
    }
    return take;
  }

  #onExtension(flag: string, data: Buffer): void {
    if (flag === 'x') {
      this.#pax = parsePax(data);
    } else if (flag === 'g') {
      this.#takeGlobals(parsePax(data));
    } else {
      const end = data.indexOf(0);
      const name = end < 0 ? data : data.subarray(0, end);
      if (flag === 'L') this.#longName = name;
      else this.#longLink = name;
    }
  }

  #takeGlobals({ values }: PaxRecords): void {
    for (const [keyword, value] of values) {
      this.#globals.set(keyword, value);
      this.#globalCharacters += keyword.length + value.length;
    }
    if (this.#globalCharacters > MAX_GLOBAL_CHARACTERS)
      throw damaged(`the tar has global headers of more than ${MAX_GLOBAL_CHARACTERS} characters`);
  }

  /** What pax says of the next member; an empty value takes back a global one. */
  #paxValue(keyword: string): string | undefined {
    const value = this.#pax?.values.get(keyword) ?? this.#globals.get(keyword);
    return value === '' ? undefined : value;
  }

  /** @returns `undefined` for members that are left out */
  #describe(header: RawHeader, old: ReturnType<typeof parseOldSparse> | undefined): OpenMember | undefined {
    const pax = (keyword: string) => this.#paxValue(keyword);
    const rawPath = pax('GNU.sparse.name') ?? pax('path') ?? decodeName(this.#longName ?? header.path);
    const type = memberType(header.typeFlag, rawPath);
    if (type === undefined) {
      this.#count();
      this.#handlers.skipped?.(
        rawPath,
        header.typeFlag === 'V' ? 'it is the label of a volume' : 'it is a FIFO',
      );
      return undefined;
    }
    const path = safeMemberPath(rawPath);
    const declared = pax('size') === undefined ? header.size : parseDecimal(pax('size') as string, 'size');
    // programs differ in whether a hard link's size means data; those that wrote one never had data
    const storedSize = type === 'hardlink' ? 0 : declared;
    if (storedSize > 0 && type !== 'file') throw damaged(`${quoted(path)} in the tar is a ${type} with data`);
    const sparse = old ?? (type === 'file' ? this.#paxSparse() : undefined);
    const linkPath = isLink(type) ? this.#link(header, type, path) : undefined;
    const uname = pax('uname') ?? header.uname.toString('utf8');
    const gname = pax('gname') ?? header.gname.toString('utf8');
    const entry: TarEntry = {
      path,
      type,
      size: sparse ? sparse.realSize : storedSize,
      mode: header.mode & 0o7777,
      uid: parseId(pax('uid'), header.uid, 'uid'),
      gid: parseId(pax('gid'), header.gid, 'gid'),
      ...(uname === '' ? {} : { uname }),
      ...(gname === '' ? {} : { gname }),
      mtimeMs: pax('mtime') === undefined ? header.mtimeSeconds * 1000 : parsePaxTime(pax('mtime') as string),
      ...(linkPath === undefined ? {} : { linkPath }),
    };
    this.#admit(entry);
    return { entry, runs: sparse?.runs, storedSize };
  }

  #paxSparse(): { runs: SparseRun[]; realSize: number } | undefined {
    const values = this.#pax?.values;
    const major = values?.get('GNU.sparse.major');
    const map = values?.get('GNU.sparse.map');
    const pairs = this.#pax?.sparsePairs ?? [];
    if (major === undefined && map === undefined && pairs.length === 0 && !values?.has('GNU.sparse.size')) {
      return undefined;
    }
    const minor = values?.get('GNU.sparse.minor');
    if (major !== undefined && `${major}.${minor}` !== '1.0' && major !== '0') {
      throw new BackupError(
        'not-yet',
        `the tar holds a sparse file of the unknown format ${quoted(`${major}.${minor}`)}`,
      );
    }
    const realSize = values?.get('GNU.sparse.realsize') ?? values?.get('GNU.sparse.size') ?? '';
    if (major === '1') this.#map = new SparseMapReader();
    const runs =
      major === '1' ? [] : sparseRuns(map === undefined ? pairs : map === '' ? [] : map.split(','));
    return { runs, realSize: parseDecimal(realSize, 'size of a sparse file') };
  }

  #link(header: RawHeader, type: 'symlink' | 'hardlink', path: string): string {
    const target = this.#paxValue('linkpath') ?? decodeName(this.#longLink ?? header.linkPath);
    if (target === '' || target.includes('\0'))
      throw damaged(`the link ${quoted(path)} in the tar leads nowhere`);
    return type === 'hardlink' ? this.#offLinks(safeMemberPath(target)) : target;
  }

  /** Counts a member, and refuses what would be written through a link. */
  #admit({ path, type, size }: TarEntry): void {
    this.#count();
    if (size > this.#limits.maxMemberBytes) {
      throw damaged(`${quoted(path)} in the tar has more than ${this.#limits.maxMemberBytes} bytes`);
    }
    this.#totalBytes += size;
    if (this.#totalBytes > this.#limits.maxTotalBytes) {
      throw damaged(`the files of the tar have more than ${this.#limits.maxTotalBytes} bytes`);
    }
    if (path === '.' && type !== 'directory') throw damaged(`the root of the tar is a ${type}`);
    this.#offLinks(path);
    if (type === 'symlink') this.#symlinks.add(path);
    else if (this.#symlinks.has(path))
      throw damaged(`${quoted(path)} is in the tar as a link and as a ${type}`);
    if (this.#symlinks.size > MAX_SYMLINKS)
      throw damaged(`the tar has more than ${MAX_SYMLINKS} symbolic links`);
  }

  #count(): void {
    this.#members += 1;
    if (this.#members > this.#limits.maxMembers)
      throw damaged(`the tar has more than ${this.#limits.maxMembers} members`);
  }

  #offLinks(path: string): string {
    if (this.#symlinks.size === 0) return path;
    for (let slash = path.indexOf('/'); slash >= 0; slash = path.indexOf('/', slash + 1)) {
      if (this.#symlinks.has(path.slice(0, slash))) {
        throw damaged(
          `member ${quoted(path)} of the tar leads through the symbolic link ${quoted(path.slice(0, slash))}`,
        );
      }
    }
    return path;
  }

  #onOldSparse(block: Uint8Array): void {
    const { runs, more } = parseOldSparse(block, 'extension', this.#position);
    const all = this.#open?.runs as SparseRun[];
    all.push(...runs);
    if (all.length > MAX_SPARSE_RUNS)
      throw damaged(`a sparse file in the tar has more than ${MAX_SPARSE_RUNS} runs of data`);
    if (!more) this.#beginMember();
  }

  #onSparseMap(block: Uint8Array): void {
    const member = this.#open as OpenMember;
    member.storedSize -= BLOCK;
    if (member.storedSize < 0)
      throw damaged(`the map of the sparse file ${quoted(member.entry.path)} is cut`);
    const runs = this.#map?.block(block);
    if (runs === undefined) return;
    this.#map = undefined;
    member.runs?.push(...runs);
    this.#beginMember();
  }

  #beginMember(): void {
    const { entry, runs, storedSize } = this.#open as OpenMember;
    this.#sparse = runs && new SparseFile({ runs, realSize: entry.size, storedSize }, this.#sink);
    this.#handlers.member(entry);
    this.#expectData(storedSize);
  }

  #expectData(size: number): void {
    this.#left = size;
    this.#padding = (BLOCK - (size % BLOCK)) % BLOCK;
    this.#state = 'data';
    if (size === 0) this.#endMember();
  }

  #endMember(): void {
    this.#state = this.#padding === 0 ? 'header' : 'padding';
    if (!this.#skipping) {
      this.#sparse?.end();
      this.#handlers.memberEnd();
    }
    this.#sparse = this.#open = undefined;
    this.#skipping = false;
  }

  #skip(): void {
    this.#skipping = true;
    this.#expectData(0);
  }

  #takeTrailing(chunk: Uint8Array, at: number): number {
    const rest = chunk.subarray(at);
    if (!isAllZero(rest)) throw damaged(`the tar has data after its end mark, near byte ${this.#position}`);
    this.#trailing += rest.length;
    if (this.#trailing > MAX_TRAILING_BYTES) throw damaged('the tar does not end after its end mark');
    return rest.length;
  }
}

function damaged(message: string): BackupError {
  return new BackupError('object-damaged', message);
}

function isLink(type: TarEntry['type']): type is 'symlink' | 'hardlink' {
  return type === 'symlink' || type === 'hardlink';
}

/** @returns `undefined` for members that are left out @throws BackupError `object-damaged` | `not-yet` */
function memberType(typeFlag: string, path: string): TarEntry['type'] | undefined {
  switch (typeFlag) {
    case '0':
    case '\0':
    case '7':
      // before there was a flag for them, directories were files with a slash
      return path.endsWith('/') ? 'directory' : 'file';
    case 'S':
      return 'file';
    case '1':
      return 'hardlink';
    case '2':
      return 'symlink';
    case '5':
      return 'directory';
    case '6':
    case 'V':
      return undefined;
    case '3':
    case '4':
      throw damaged(`${quoted(path)} in the tar is a device`);
    case 'D':
    case 'M':
    case 'N':
      throw new BackupError('not-yet', `the tar holds a member of GNU's type "${typeFlag}": ${quoted(path)}`);
    default:
      throw damaged(`${quoted(path)} in the tar is of the unknown type ${quoted(typeFlag)}`);
  }
}

function parseId(pax: string | undefined, fromHeader: number, what: string): number {
  const id = pax === undefined ? fromHeader : parseDecimal(pax, what);
  if (id < 0 || id > 0xffff_ffff) throw damaged(`the tar holds a ${what} that is none: ${id}`);
  return id;
}

function isAllZero(bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i += 1) if (bytes[i] !== 0) return false;
  return true;
}

function writeZeros(handlers: TarHandlers, length: number): void {
  for (let left = length; left > 0; left -= ZEROS.length) {
    handlers.data(left >= ZEROS.length ? ZEROS : ZEROS.subarray(0, left));
  }
}
