import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { collectBytes, piecesOf } from '../../streams/chunks.ts';
import { compress, compressBytes, decompressBytes } from '../../streams/codec.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeWith, toolPath } from '../support/tools.ts';

/** The libraries that barman-cloud itself uses, as it uses them for base tars and for WAL. */
const WRITE = `
import sys, bz2, gzip, lzma, lz4.frame, snappy, zstandard
folder = sys.argv[1]
plain = open(folder + '/plain', 'rb').read()
with lz4.frame.open(folder + '/base.lz4', 'wb') as out:
    for at in range(0, len(plain), 10240): out.write(plain[at:at + 10240])
open(folder + '/wal.lz4', 'wb').write(lz4.frame.compress(plain, compression_level=6))
open(folder + '/wal.zst', 'wb').write(zstandard.ZstdCompressor(level=4).compress(plain))
open(folder + '/wal.gz', 'wb').write(gzip.compress(plain, 6))
open(folder + '/wal.bz2', 'wb').write(bz2.compress(plain, 5))
with bz2.open(folder + '/base.bz2', 'wb') as out: out.write(plain)
open(folder + '/wal.xz', 'wb').write(lzma.compress(plain, preset=3))
with open(folder + '/wal.snappy', 'wb') as out: snappy.stream_compress(open(folder + '/plain', 'rb'), out)
compressor = snappy.StreamCompressor()
with open(folder + '/base.snappy', 'wb') as out:
    for at in range(0, len(plain), 10240): out.write(compressor.add_chunk(plain[at:at + 10240]))
`;
const READ = `
import io, sys, bz2, gzip, lzma, lz4.frame, snappy, zstandard
folder = sys.argv[1]
plain = open(folder + '/plain', 'rb').read()
for name in ('stream', 'bytes'):
    path = folder + '/' + name
    assert lz4.frame.open(path + '.lz4').read() == plain, 'lz4 ' + name
    assert lz4.frame.decompress(open(path + '.lz4', 'rb').read()) == plain, 'lz4 at once ' + name
    assert gzip.open(path + '.gz').read() == plain, 'gzip ' + name
    assert zstandard.ZstdDecompressor().stream_reader(open(path + '.zst', 'rb')).read() == plain, 'zstd ' + name
    assert bz2.open(path + '.bz2').read() == plain, 'bzip2 ' + name
    one = bz2.BZ2Decompressor()
    assert one.decompress(open(path + '.bz2', 'rb').read()) == plain and one.eof and not one.unused_data, 'one bzip2 stream ' + name
    one = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    assert one.decompress(open(path + '.xz', 'rb').read()) == plain and one.eof and not one.unused_data, 'one xz stream ' + name
    out = io.BytesIO()
    snappy.stream_decompress(open(path + '.snappy', 'rb'), out)
    assert out.getvalue() == plain, 'snappy ' + name
    assert open(path + '.snappy', 'rb').read() == open(folder + '/wal.snappy', 'rb').read(), 'the very bytes of snappy ' + name
`;

describeWith('barman', "barman's compression libraries", () => {
  const folder = makeTempDir('codecs');
  const plain = Buffer.from(
    Array.from({ length: 700_000 }, (_, n) => `${n}\t${(n * 7919) % 10007}\n`).join(''),
  );
  writeFileSync(join(folder, 'plain'), plain);
  const python = (program: string) =>
    execFileSync(join(toolPath('barman'), 'python'), ['-c', program, folder], { stdio: 'pipe' });

  it('E5: what they write is read by us', async () => {
    python(WRITE);
    for (const [file, codec] of [
      ['base.lz4', 'lz4'],
      ['wal.lz4', 'lz4'],
      ['wal.zst', 'zstd'],
      ['wal.gz', 'gzip'],
      ['wal.bz2', 'bzip2'],
      ['base.bz2', 'bzip2'],
      ['wal.xz', 'xz'],
      ['wal.snappy', 'snappy'],
      ['base.snappy', 'snappy'],
    ] as const) {
      const back = await decompressBytes(codec, readFileSync(join(folder, file)), plain.length, file);
      expect(plain.equals(back), file).toBe(true);
    }
  });

  it('E5: what we write is read by them', async () => {
    const signal = new AbortController().signal;
    for (const [suffix, codec] of [
      ['lz4', 'lz4'],
      ['zst', 'zstd'],
      ['gz', 'gzip'],
      ['bz2', 'bzip2'],
      ['xz', 'xz'],
      ['snappy', 'snappy'],
    ] as const) {
      const stream = compress(codec, piecesOf(plain.subarray(0, 1_000_000), plain.subarray(1_000_000)), {
        signal,
      });
      writeFileSync(join(folder, `stream.${suffix}`), await collectBytes(stream, plain.length * 2));
      writeFileSync(join(folder, `bytes.${suffix}`), await compressBytes(codec, plain));
    }
    expect(() => python(READ)).not.toThrow();
  });
});
