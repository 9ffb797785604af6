import { describe, expect, it } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import { Secret } from '../../core/secret.ts';
import type { RepositoryAccess } from '../../operations/open-repository.ts';
import { unlessRotated } from '../../operations/rotated-secret.ts';

const accessWith = (key: string): RepositoryAccess => ({
  server: 'pg',
  config: {
    kind: 's3',
    bucket: 'b',
    prefix: '',
    credentials: { accessKeyId: new Secret('id'), secretAccessKey: new Secret(key) },
  },
});
const denied = new BackupError('access-denied', 'put s3://b/k failed: InvalidAccessKeyId, status 403');
const judge = (error: unknown, resolve: () => Promise<RepositoryAccess>) =>
  unlessRotated(error, accessWith('old'), resolve, 'backup-interrupted');

describe('a key that the store refuses', () => {
  it('fault 38: that was replaced while the work ran, the work can be done again', async () => {
    const judged = await judge(denied, async () => accessWith('new'));
    expect(judged).toMatchObject({ code: 'backup-interrupted', retryable: true });
    // S1: neither of them is told.
    expect(JSON.stringify(judged) + String(judged)).not.toMatch(/old|new"/);
  });

  it.for([
    { why: 'the key is the same', resolve: async () => accessWith('old') },
    {
      why: 'there is none any more',
      resolve: async () => {
        throw new BackupError('secret-missing', 'no secret');
      },
    },
    {
      why: 'it is a directory now',
      resolve: async () => ({ server: 'pg', config: { kind: 'file', directory: '/r' } }) as const,
    },
  ])('fault 21: ends the work when $why', async ({ resolve }) => {
    expect(await judge(denied, resolve)).toBe(denied);
  });

  it('says nothing about other failures', async () => {
    const other = new BackupError('store-unavailable', 'no answer');
    expect(await judge(other, async () => accessWith('new'))).toBe(other);
  });
});
