import { describe, expect, it } from 'vitest';
import { namedRepository } from '../../cli/named-repository.ts';

const AZURE = 'https://acc.blob.core.windows.net/box/p';

describe('a repository that the command line names', () => {
  it.for(['file:///srv/copy', 's3://backups/postgres', 'gs://backups/postgres', AZURE])(
    'may be in any store: %s',
    (url) => {
      expect(namedRepository(url, undefined, {})).toEqual({ store: { destinationPath: url } });
    },
  );

  it.for([
    { url: 's3://b/p', endpoint: 'http://127.0.0.1:9000' },
    { url: 'gs://b/p', endpoint: 'http://127.0.0.1:4443' },
    { url: AZURE, endpoint: 'https://blobs.example.com' },
  ])('may be at another address: $url', ({ url, endpoint }) => {
    expect(namedRepository(url, endpoint, {}).store).toEqual({
      destinationPath: url,
      endpointURL: endpoint,
    });
  });

  it.for([
    { url: 'azure://acc/c', says: '--repository "azure://" is no kind of store walkeep knows' },
    { url: '/srv/copy', says: '--repository "/srv/copy" is no address' },
    { url: 's3://key:word@b/p', says: '--repository holds a user name or password' },
  ])('is refused with what to write when it is no address: $url', ({ url, says }) => {
    expect(() => namedRepository(url, undefined, {})).toThrow(
      expect.objectContaining({ code: 'usage', message: says, hint: expect.stringMatching(/write|leave/) }),
    );
  });

  it('is refused at a second address that is none', () => {
    expect(() => namedRepository('s3://b/p', 'minio:9000', {})).toThrow(/^--endpoint-url "minio:9000"/);
  });

  it('is refused at a second address beside a directory', () => {
    expect(() => namedRepository('file:///srv/copy', 'http://127.0.0.1:9000', {})).toThrow(
      expect.objectContaining({ code: 'usage', message: expect.stringContaining('beside the directory') }),
    );
  });

  it.for([
    { url: 'http://127.0.0.1:10000/acc/box/p', endpoint: undefined },
    { url: AZURE, endpoint: 'http://127.0.0.1:10000/acc' },
  ])('is refused where only a key could open it: $url at $endpoint', ({ url, endpoint }) => {
    expect(() => namedRepository(url, endpoint, {})).toThrow(
      expect.objectContaining({ code: 'usage', hint: expect.stringContaining('-f FILE') }),
    );
  });

  it.for(['AZURE_STORAGE_CONNECTION_STRING', 'AZURE_STORAGE_SAS_TOKEN', 'AZURE_STORAGE_KEY'])(
    'S1: says that %s is not used, and not what it holds',
    (name) => {
      const { warning } = namedRepository(AZURE, undefined, { [name]: 'hush' });
      expect(warning).toContain(`${name} is not looked at`);
      expect(warning).not.toContain('hush');
      expect(namedRepository('s3://b/p', undefined, { [name]: 'hush' }).warning).toBeUndefined();
      expect(namedRepository(AZURE, undefined, { [name]: '' }).warning).toBeUndefined();
    },
  );
});
