import { createMemoryStore } from '../../stores/memory.ts';
import { describeObjectStore } from './conformance.ts';

describeObjectStore('memory', async () => ({ store: createMemoryStore() }));
