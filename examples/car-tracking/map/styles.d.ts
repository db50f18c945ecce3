/** The bundler takes styles out of modules and puts them beside. */
declare module '*.css'
