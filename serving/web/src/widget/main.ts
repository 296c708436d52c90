/** The widget's first file. */
export {};
