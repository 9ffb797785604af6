import { BackupError } from '../core/errors.ts';
import { parseDecimal, sparseRuns, type SparseRun } from './tar-header.ts';
import { BLOCK } from './tar-writer.ts';

/** So many runs of data in one file are a mistake or an attack: the map is kept in memory. */
export const MAX_SPARSE_RUNS = 1_000_000;

/** Where the expanded bytes of a sparse file go. */
export interface SparseSink {
  data(chunk: Uint8Array): void;
  hole(length: number): void;
}

/** Puts the holes back between the runs of one sparse file. */
export class SparseFile {
  readonly #runs: readonly SparseRun[];
  readonly #realSize: number;
  readonly #sink: SparseSink;
  #run = 0;
  #position = 0;

  /** @throws BackupError `object-damaged` unless the runs follow each other, lie in the file and hold `storedSize` bytes */
  constructor(file: { runs: readonly SparseRun[]; realSize: number; storedSize: number }, sink: SparseSink) {
    let end = 0;
    let stored = 0;
    for (const { offset, length } of file.runs) {
      if (offset < end || offset + length > file.realSize) {
        throw new BackupError(
          'object-damaged',
          `the map of a sparse file in the tar is wrong at byte ${offset}`,
        );
      }
      end = offset + length;
      stored += length;
    }
    if (stored !== file.storedSize) {
      throw new BackupError(
        'object-damaged',
        `a sparse file in the tar has ${file.storedSize} bytes of data, its map says ${stored}`,
      );
    }
    this.#runs = file.runs;
    this.#realSize = file.realSize;
    this.#sink = sink;
  }

  data(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length) {
      const run = this.#runs[this.#run] as SparseRun;
      this.#holeUntil(run.offset);
      const left = run.offset + run.length - this.#position;
      const take = Math.min(left, chunk.length - at);
      if (take > 0) this.#sink.data(chunk.subarray(at, at + take));
      this.#position += take;
      at += take;
      if (take === left) this.#run += 1;
    }
  }

  end(): void {
    this.#holeUntil(this.#realSize);
  }

  #holeUntil(offset: number): void {
    if (offset > this.#position) this.#sink.hole(offset - this.#position);
    this.#position = Math.max(this.#position, offset);
  }
}

/** Reads the map that GNU's sparse format 1.0 puts before the data: decimal numbers, one a line, in whole blocks. */
export class SparseMapReader {
  readonly #numbers: string[] = [];
  #digits = '';
  #expected = 1;

  /** @returns the runs, once the map is complete @throws BackupError `object-damaged` */
  block(block: Uint8Array): SparseRun[] | undefined {
    for (let i = 0; i < BLOCK; i += 1) {
      const byte = block[i] as number;
      if (byte !== 0x0a) {
        this.#digits += String.fromCharCode(byte);
        if (this.#digits.length > 20)
          throw new BackupError('object-damaged', 'the tar holds a sparse file without a map');
        continue;
      }
      this.#numbers.push(this.#digits);
      this.#digits = '';
      if (this.#numbers.length === 1) this.#expected = this.#expectedNumbers();
      if (this.#numbers.length === this.#expected) return sparseRuns(this.#numbers.slice(1));
    }
    return undefined;
  }

  #expectedNumbers(): number {
    const runs = parseDecimal(this.#numbers[0] as string, 'count of sparse runs');
    if (runs > MAX_SPARSE_RUNS) {
      throw new BackupError('object-damaged', `a sparse file in the tar has ${runs} runs of data`);
    }
    return 1 + 2 * runs;
  }
}
