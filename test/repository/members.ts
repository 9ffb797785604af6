import { TAR_END, TarReader, tarHeader, tarPadding, type TarEntry } from '../../repository/tar.ts';

export interface Member {
  readonly entry: TarEntry;
  readonly data: Buffer;
}

/** A plain file for tests. */
export function file(path: string, data: Uint8Array | string = '', more: Partial<TarEntry> = {}): Member {
  const bytes = Buffer.from(data as Uint8Array);
  const entry = {
    path,
    type: 'file',
    size: bytes.length,
    mode: 0o600,
    uid: 101,
    gid: 104,
    mtimeMs: 1_795_386_280_000,
  } as const;
  return { entry: { ...entry, ...more }, data: bytes };
}

/** A directory for tests. */
export function directory(path: string, more: Partial<TarEntry> = {}): Member {
  return file(path, '', { type: 'directory', mode: 0o700, ...more });
}

/** A tar of `members` with the shortest end mark. */
export function tarOf(members: readonly Member[], end: Uint8Array = TAR_END): Buffer {
  const blocks = members.flatMap(({ entry, data }) => [tarHeader(entry), data, tarPadding(data.length)]);
  return Buffer.concat([...blocks, end]);
}

/** Everything a reader says about a tar that comes in pieces. */
export function readTar(
  chunks: Iterable<Uint8Array>,
  limits?: ConstructorParameters<typeof TarReader>[1],
): Member[] {
  const members: Member[] = [];
  let pieces: Uint8Array[] = [];
  let open: TarEntry | undefined;
  const reader = new TarReader(
    {
      member: (entry) => ([open, pieces] = [entry, []]),
      data: (chunk) => void pieces.push(Buffer.from(chunk)),
      memberEnd: () => {
        if (open) members.push({ entry: open, data: Buffer.concat(pieces) });
        open = undefined;
      },
    },
    limits,
  );
  for (const chunk of chunks) reader.write(chunk);
  reader.finish();
  return members;
}

/** `bytes` in pieces of the given sizes, again and again. */
export function* inPieces(bytes: Uint8Array, sizes: readonly number[]): Generator<Uint8Array> {
  for (let at = 0, i = 0; at < bytes.length; i += 1) {
    const size = sizes[i % sizes.length] as number;
    yield bytes.subarray(at, at + size);
    at += size;
  }
}
