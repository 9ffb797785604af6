/**
 * What the conformance matrix runs, as data: which cells there are, and what each operation of a cell must come to. Pure.
 */
import type { Codec } from '../../streams/codec.ts';
import { MAJORS, type Major } from '../support/tools.ts';

/** The releases of barman-cloud, oldest first; scripts/versions brings the same. The middle one is CloudNativePG's. */
export const RELEASES = ['3.10.0', '3.19.1', '3.20.1'] as const;
export type Release = (typeof RELEASES)[number];

export const STORE_KINDS = ['S3', 'Azure', 'GCS'] as const;
export type StoreKind = (typeof STORE_KINDS)[number];

/** What is backed up: one directory, two more tablespaces, a promotion between two backups, or many tars for one backup. */
export const SHAPES = ['plain', 'parts', 'tablespaces', 'timelines'] as const;
export type Shape = (typeof SHAPES)[number];

export const OPERATIONS = [
  'write',
  'list',
  'show',
  'restore',
  'wal-restore',
  'keep',
  'delete',
  'check-wal-archive',
] as const;
export type Operation = (typeof OPERATIONS)[number];

/** One repository, who writes it, and the barman-cloud that reads or wrote it. */
export interface Cell {
  readonly writer: 'walkeep' | 'barman';
  readonly release: Release;
  readonly store: StoreKind;
  readonly major: Major;
  readonly shape: Shape;
  readonly codec: Codec;
}

/** Why an operation does not work, and whose that is. It is seen to be so, not taken for granted. */
export interface Reason {
  readonly id: string;
  readonly whose: 'barman' | 'walkeep';
  readonly text: string;
}

const reason = (id: string, whose: Reason['whose'], text: string): Reason => ({ id, whose, text });

export const REASONS = {
  noWriteOption: reason(
    'no-option',
    'barman',
    'barman-cloud 3.10 has no option for lz4, xz and zstd: it refuses the words',
  ),
  baseNotFound: reason(
    'base-not-found',
    'barman',
    'barman-cloud looks for tars of a codec it does not know in vain: no lz4 before 3.18, no zstd before 3.20',
  ),
  walNotFound: reason(
    'wal-not-found',
    'barman',
    'barman-cloud 3.10 answers "not in the archive" (exit 1) for WAL with lz4, xz and zstd',
  ),
  tarsStay: reason(
    'tars-stay',
    'barman',
    'barman-cloud deletes the record and leaves tars of a codec it does not know',
  ),
  walStays: reason('wal-stays', 'barman', 'barman-cloud 3.10 leaves WAL with lz4, xz and zstd'),
  seesNoWal: reason(
    'sees-no-wal',
    'barman',
    'barman-cloud 3.10 takes an archive with nothing but lz4, xz or zstd for a new one',
  ),
} satisfies Record<string, Reason>;

/** Base backups of this release may have these codecs. */
export function baseCodecs(release: Release): readonly Codec[] {
  switch (release) {
    case '3.10.0':
      return ['none', 'gzip', 'bzip2', 'snappy'];
    case '3.19.1':
      return ['none', 'gzip', 'bzip2', 'snappy', 'lz4'];
    case '3.20.1':
      return ['none', 'gzip', 'bzip2', 'snappy', 'lz4', 'zstd'];
  }
}

/** WAL of this release may have these. */
export function walCodecs(release: Release): readonly Codec[] {
  const old: readonly Codec[] = ['none', 'gzip', 'bzip2', 'snappy'];
  return release === '3.10.0' ? old : [...old, 'lz4', 'xz', 'zstd'];
}

/** How tars are written in a cell: as its codec says, but with gzip where the writer has no such tars. */
export function baseCodecOf({ writer, release, codec }: Cell): Codec {
  const known: readonly Codec[] = writer === 'barman' ? baseCodecs(release) : [...baseCodecs('3.20.1')];
  return known.includes(codec) ? codec : 'gzip';
}

/** `undefined`: it works. `unwritten`: there is nothing to be read, which the first operation says. */
export function expectationOf(cell: Cell, operation: Operation): Reason | 'unwritten' | undefined {
  const { writer, release, codec } = cell;
  const readsWal = walCodecs(release).includes(codec);
  if (writer === 'barman') {
    if (readsWal) return undefined;
    return operation === 'write' ? REASONS.noWriteOption : 'unwritten';
  }
  const readsBase = baseCodecs(release).includes(baseCodecOf(cell));
  switch (operation) {
    case 'restore':
      if (!readsBase) return REASONS.baseNotFound;
      return readsWal ? undefined : REASONS.walNotFound;
    case 'wal-restore':
      return readsWal ? undefined : REASONS.walNotFound;
    case 'delete':
      if (!readsBase) return REASONS.tarsStay;
      return readsWal ? undefined : REASONS.walStays;
    case 'check-wal-archive':
      return readsWal ? undefined : REASONS.seesNoWal;
    default:
      return undefined;
  }
}

const CODECS: readonly Codec[] = ['gzip', 'lz4', 'none', 'bzip2', 'snappy', 'xz', 'zstd'];
const WRITERS = ['walkeep', 'barman'] as const;
/** On which every codec is combined with every store and release. */
export const CODECS_MAJOR: Major = 15;
const CLOUDNATIVEPG: Release = '3.19.1';

/** Every codec with every release and writer, in one store, on one major. */
export function codecCells(store: StoreKind): Cell[] {
  return RELEASES.flatMap((release) =>
    CODECS.flatMap((codec) =>
      WRITERS.map((writer): Cell => ({ writer, release, store, major: CODECS_MAJOR, shape: 'plain', codec })),
    ),
  );
}

/**
 * Every shape in every store, by both writers, on one major, with CloudNativePG's release; what `codecCells` has is not
 * repeated. The codecs go round, so that over the majors each meets each store and each shape.
 */
export function shapeCells(major: Major): Cell[] {
  const shapes = major === CODECS_MAJOR ? SHAPES.filter((shape) => shape !== 'plain') : SHAPES;
  return shapes.flatMap((shape) =>
    STORE_KINDS.flatMap((store, nthStore) =>
      WRITERS.map((writer): Cell => {
        const nth = SHAPES.indexOf(shape) + 2 * nthStore + 3 * MAJORS.indexOf(major);
        const codec = CODECS[nth % CODECS.length] ?? 'gzip';
        return { writer, release: CLOUDNATIVEPG, store, major, shape, codec };
      }),
    ),
  );
}

/** All that scripts/conformance runs. */
export function allCells(): Cell[] {
  return [...STORE_KINDS.flatMap(codecCells), ...MAJORS.flatMap(shapeCells)];
}

/** What scripts/test runs of it, on the newest major. */
export function reducedCells(): Cell[] {
  const chosen = [
    { store: 'S3', shape: 'plain', codec: 'gzip' },
    { store: 'S3', shape: 'tablespaces', codec: 'lz4' },
    { store: 'Azure', shape: 'tablespaces', codec: 'gzip' },
    { store: 'GCS', shape: 'plain', codec: 'lz4' },
  ] as const;
  return chosen.flatMap((one) =>
    WRITERS.map((writer): Cell => ({ ...one, writer, release: CLOUDNATIVEPG, major: 18 })),
  );
}

/** A name for files and titles. */
export function cellName({ writer, release, store, major, shape, codec }: Cell): string {
  const who = writer === 'walkeep' ? `walkeep to barman ${release}` : `barman ${release} to walkeep`;
  return `${who}, ${store}, PostgreSQL ${major}, ${shape}, ${codec}`;
}
