import { expect, it } from 'vitest';
import { blockBytes } from '../../stores/azure-upload.ts';

const MiB = 1024 * 1024;
const GiB = 1024 * MiB;

it('an upload fits 2 TiB into 50 000 blocks, or 190 TiB where the size is known', () => {
  let largest = 0;
  const blocksOf = (bytes: number, sizeBytes?: number) => {
    let blocks = 0;
    for (let sent = 0; sent < bytes; blocks++) {
      const size = blockBytes(sent, sizeBytes);
      largest = Math.max(largest, size);
      sent += size;
    }
    return blocks;
  };
  expect(blocksOf(2048 * GiB)).toBeLessThan(50_000);
  for (const size of [1, 100 * GiB, 1024 * GiB, 190 * 1024 * GiB]) {
    expect(blocksOf(size, size)).toBeLessThanOrEqual(50_000);
  }
  expect(largest).toBeLessThanOrEqual(4000 * MiB);
  expect(blockBytes(0)).toBe(16 * MiB);
  expect(blockBytes(80 * GiB)).toBe(8 * MiB);
});
