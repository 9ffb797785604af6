import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readManifestSources } from '../../operations/read-manifests.ts';

describe('what -f names', () => {
  let folder = '';
  const noInput = () => Promise.reject(new Error('standard input was not asked for'));

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'walkeep-sources-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  it('is a folder: its YAML and JSON files by name, nothing hidden, no subfolders', async () => {
    await mkdir(join(folder, 'sub'));
    for (const name of ['b.yml', 'a.yaml', 'c.json', 'README.md', '.hidden.yaml', 'sub/d.yaml']) {
      await writeFile(join(folder, name), name);
    }
    const sources = await readManifestSources([folder], noInput);
    expect(sources.map(({ file, text }) => [basename(file), text])).toEqual([
      ['a.yaml', 'a.yaml'],
      ['b.yml', 'b.yml'],
      ['c.json', 'c.json'],
    ]);
  });

  it('is a file of any name, or standard input', async () => {
    const file = join(folder, 'manifest');
    await writeFile(file, 'x: 1');
    const sources = await readManifestSources([file, '-'], () => Promise.resolve(Buffer.from('y: 2')));
    expect(sources).toEqual([
      { file, text: 'x: 1' },
      { file: 'standard input', text: 'y: 2' },
    ]);
  });

  it('is refused when it is not there, holds nothing, or is no text', async () => {
    await expect(readManifestSources([join(folder, 'none.yaml')], noInput)).rejects.toMatchObject({
      code: 'usage',
    });
    await expect(readManifestSources([folder], noInput)).rejects.toThrow('no .yaml, .yml or .json files');
    await writeFile(join(folder, 'a.yaml'), Uint8Array.of(0xff, 0xfe, 0x00));
    await expect(readManifestSources([folder], noInput)).rejects.toThrow('is not UTF-8 text');
  });
});
