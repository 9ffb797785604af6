import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { parseLsn } from '../../core/lsn.ts';
import { formatManifest, type ManifestFile } from '../../postgres/backup-manifest.ts';

const frame = {
  systemId: '7711911442456992489',
  timeline: 1,
  beginLsn: parseLsn('0/2000028'),
  endLsn: parseLsn('0/2000100'),
};

async function format(files: ManifestFile[], majorVersion: number): Promise<string> {
  async function* source() {
    yield* files;
  }
  let text = '';
  for await (const piece of formatManifest(source(), { ...frame, majorVersion })) text += piece;
  return text;
}

describe('formatManifest', () => {
  const file: ManifestFile = {
    path: 'base/5/"odd" ü',
    sizeBytes: 8192,
    mtimeMs: 1_700_000_000_123,
    sha256: 'ab'.repeat(32),
  };

  it('is what PostgreSQL documents, with its own checksum', async () => {
    const text = await format([file, { ...file, path: 'b' }], 15);
    const manifest = JSON.parse(text) as Record<string, unknown>;
    expect(manifest).toMatchObject({
      'PostgreSQL-Backup-Manifest-Version': 1,
      Files: [
        {
          Path: 'base/5/"odd" ü',
          Size: 8192,
          'Last-Modified': '2023-11-14 22:13:20 GMT',
          'Checksum-Algorithm': 'SHA256',
          Checksum: 'ab'.repeat(32),
        },
        { Path: 'b' },
      ],
      'WAL-Ranges': [{ Timeline: 1, 'Start-LSN': '0/2000028', 'End-LSN': '0/2000100' }],
    });
    const before = text.slice(0, text.indexOf('"Manifest-Checksum"'));
    expect(manifest['Manifest-Checksum']).toBe(createHash('sha256').update(before).digest('hex'));
    expect(before.endsWith('\n')).toBe(true);
  });

  it('names the system from version 2 on, as a number that no float could hold', async () => {
    const text = await format([], 17);
    expect(text).toContain(
      '"PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": 7711911442456992489,\n',
    );
    expect(await format([], 16)).not.toContain('System-Identifier');
  });
});
