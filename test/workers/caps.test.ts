import { describe, expect, it } from 'vitest';
import { createCaps, createRestoreCaps, placeOf } from '../../workers/caps.ts';
import { clusterManifest } from '../workflows/fake-cluster.ts';

const writingTo = (barmanObjectStore: object) => clusterManifest('main', { backup: { barmanObjectStore } });

describe('the place that clusters share', () => {
  it.for([
    { destinationPath: 's3://backups/a', place: 's3.amazonaws.com/backups' },
    { destinationPath: 's3://backups/b/c', place: 's3.amazonaws.com/backups' },
    {
      destinationPath: 's3://backups/a',
      endpointURL: 'https://S3.example.org:9000/x',
      place: 's3.example.org:9000/backups',
    },
    { destinationPath: 'gs://backups/a', place: 'storage.googleapis.com/backups' },
    {
      destinationPath: 'https://acc.blob.core.windows.net/container/a',
      place: 'acc.blob.core.windows.net/acc/container',
    },
    { destinationPath: 'file:///srv/backups', place: 'db1/srv/backups' },
  ])('$destinationPath at $endpointURL is $place', ({ place, ...store }) => {
    expect(placeOf(writingTo(store), 'db1')).toBe(place);
  });

  it('holds nothing that is secret', () => {
    const store = { destinationPath: 's3://b/x', endpointURL: 'https://user:pa55@s3.example.org' };
    expect(placeOf(writingTo(store), 'db1')).toBe('s3.example.org/b');
  });
});

describe('caps', () => {
  const manifest = writingTo({ destinationPath: 's3://b/x' });

  it('there is none unless somebody asked for one', () => {
    expect(createCaps(undefined, 'db1')(manifest)).toBeUndefined();
    expect(createCaps({}, 'db1')(manifest)).toBeUndefined();
    expect(createCaps({ perHost: 1 }, 'db1')(manifest)).toEqual({ perHost: 1, store: 's3.amazonaws.com/b' });
  });

  it('a restore takes a place where backups to the same place would write', () => {
    const store = { destinationPath: 's3://b/elsewhere' };
    expect(createRestoreCaps({}, 'db1')(store)).toBeUndefined();
    expect(createRestoreCaps({ perStore: 8 }, 'db1')(store)).toEqual(
      createCaps({ perStore: 8 }, 'db1')(manifest),
    );
    expect(createRestoreCaps({ perStore: 8 }, 'db1')({})).toBeUndefined();
  });
});
